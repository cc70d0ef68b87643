//! How forms and queries are read.

use actix_web::web;

/// A form's content without its empty fields.
pub(super) fn without_empty(form: &str) -> String {
    let filled = url::form_urlencoded::parse(form.as_bytes()).filter(|(_, value)| !value.is_empty());
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(filled).finish()
}

/// Parses a form.
pub(super) fn read<T: serde::de::DeserializeOwned>(form: &str) -> Result<T, String> {
    web::Query::from_query(form).map(web::Query::into_inner).map_err(|error| error.to_string())
}
