//! Text files as editors and shells write them.

/// The text of a file: UTF-8, perhaps with a byte order mark before it. The error says what it is instead.
pub(super) fn decode(bytes: Vec<u8>) -> Result<String, &'static str> {
    const MARK: &str = "\u{feff}";
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("UTF-16");
    }
    let text = String::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    Ok(text.strip_prefix(MARK).map(str::to_owned).unwrap_or(text))
}
