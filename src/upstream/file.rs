//! Files of which a copy may be here: asked for with what tells the copy from another.

use super::{Body, Origin, Upstream, UpstreamError, body, counted, forwarded};
use crate::proto::http1::{Headers, Method};

/// What an upstream says of a file.
#[derive(Debug)]
pub enum FileAnswer {
    /// The copy is still right (304), with the fields of this answer.
    Same(Headers),
    /// This is the file.
    Body(Body),
}

impl Upstream {
    /// Asks for a whole file, redirects followed. `copy` holds the fields of the answer that is
    /// here already: its `ETag` and `Last-Modified` become conditions (RFC 9110 section 13.1).
    ///
    /// # Errors
    /// [`UpstreamError::Status`] for any answer but 200 and 304; see there for the others.
    pub fn file(
        &self,
        origin: &Origin,
        copy: Option<&Headers>,
    ) -> Result<FileAnswer, UpstreamError> {
        let mut headers = forwarded(&origin.headers);
        for (field, condition) in
            [("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")]
        {
            if let Some(value) = copy.and_then(|copy| copy.get(field)) {
                headers.append(condition, value);
            }
        }
        let asked = body::Asked { from: 0, until: None };
        counted(self.follow(&Method::Get, &origin.url, headers).and_then(|response| {
            match response.status().as_u16() {
                200 => Body::new(response, asked).map(FileAnswer::Body),
                304 if copy.is_some() => Ok(FileAnswer::Same(body::answer(response).headers)),
                _ => Err(UpstreamError::Status(Box::new(body::answer(response)))),
            }
        }))
    }
}
