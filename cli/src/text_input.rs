//! Text from files and from stdin, as editors and shells write it.

const MARK: &[u8] = "\u{feff}".as_bytes();

/// The bytes without a byte order mark.
///
/// # Errors
/// They begin as UTF-16 does.
pub(crate) fn without_mark(bytes: &[u8]) -> anyhow::Result<&[u8]> {
    anyhow::ensure!(
        !bytes.starts_with(&[0xff, 0xfe]) && !bytes.starts_with(&[0xfe, 0xff]),
        "is UTF-16; write it as UTF-8"
    );
    Ok(bytes.strip_prefix(MARK).unwrap_or(bytes))
}

/// The text.
///
/// # Errors
/// The bytes are not UTF-8.
pub(crate) fn text(bytes: &[u8]) -> anyhow::Result<&str> {
    str::from_utf8(without_mark(bytes)?).map_err(|_| anyhow::anyhow!("is not UTF-8"))
}
