//! What the hosts had at each moment, as SVG: a panel for each scenario, a line for each host.

use std::fmt::Write as _;
use std::path::Path;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 240.0;
const MARGIN: f64 = 40.0;
const COLUMNS: usize = 2;

/// What one scenario looked like.
#[derive(Debug)]
pub struct Panel {
    pub title: String,
    /// When the last host could be done, in seconds.
    pub ideal: f64,
    /// Of each host: seconds, and the share of the blob that its reader had then.
    pub hosts: Vec<Vec<(f64, f64)>>,
}

/// Writes all panels into one file.
pub fn draw(panels: &[Panel], path: &Path) {
    let columns = panels.len().min(COLUMNS);
    let (width, height) = (WIDTH * columns as f64, HEIGHT * panels.len().div_ceil(COLUMNS) as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let (row, column) = (number / COLUMNS, number % COLUMNS);
        let (x, y) = (WIDTH * column as f64, HEIGHT * row as f64);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">{}</g>", panel.svg());
    }
    svg.push_str("</svg>\n");
    std::fs::write(path, svg).expect("the disk has room");
}

impl Panel {
    fn svg(&self) -> String {
        let last = self.hosts.iter().filter_map(|host| host.last()).map(|point| point.0);
        let end = last.fold(self.ideal, f64::max) * 1.05;
        let (plot_width, plot_height) = (WIDTH - 2.0 * MARGIN, HEIGHT - 2.0 * MARGIN);
        let x = |seconds: f64| MARGIN + plot_width * seconds / end;
        let y = |share: f64| MARGIN + plot_height * (1.0 - share);
        let mut svg = format!("\n<text x=\"{MARGIN}\" y=\"24\">{}</text>\n", self.title);
        for share in [0.0, 0.5, 1.0] {
            let _ = writeln!(
                svg,
                "<path d=\"M{MARGIN} {0:.1}H{1}\" stroke=\"#ddd\"/>\
                 <text x=\"{2}\" y=\"{0:.1}\" text-anchor=\"end\">{3:.0} %</text>",
                y(share),
                WIDTH - MARGIN,
                MARGIN - 4.0,
                share * 100.0
            );
        }
        let step = [1.0, 2.0, 5.0, 10.0, 20.0].into_iter().find(|step| end / step < 10.0);
        let step = step.unwrap_or(50.0);
        let mut at = 0.0;
        while at < end {
            let (x, y) = (x(at), y(0.0) + 16.0);
            let _ =
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{at} s</text>");
            at += step;
        }
        for host in &self.hosts {
            let points = host.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)));
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-opacity=\"0.4\"/>",
                points.collect::<Vec<_>>().join(" ")
            );
        }
        let (ideal, top, bottom) = (x(self.ideal), y(1.0), y(0.0));
        let _ = write!(
            svg,
            "<path d=\"M{ideal:.1} {top}V{bottom}\" stroke=\"#c00\" stroke-dasharray=\"4 3\"/>\
             <text x=\"{ideal:.1}\" y=\"{}\" text-anchor=\"end\" fill=\"#c00\">ideal</text>",
            top - 4.0
        );
        svg
    }
}
