//! The path of the console as browsers see it: where it is mounted, and the prefix that a proxy takes off.

use actix_web::dev::ServiceRequest;

const FORWARDED_PREFIX: &str = "x-forwarded-prefix";

/// The longest prefix in bytes.
const LONGEST: usize = 200;

/// The path that the console is mounted at, as it was requested. It is the beginning of the request's path with as many
/// slashes as the beginning that routing took: that one is decoded, and decoding makes no slashes.
pub(super) fn mount_path(request: &ServiceRequest) -> &str {
    let routed = request.match_info();
    let taken = routed.as_str().len().saturating_sub(routed.unprocessed().len());
    let slashes = routed.as_str().get(..taken).unwrap_or_default().trim_end_matches('/').matches('/').count();
    let raw = request.uri().path();
    let end = raw.match_indices('/').nth(slashes).map_or(raw.len(), |(place, _)| place);
    &raw[..end]
}

/// The prefix that a proxy names, if it is a path.
pub(super) fn forwarded_prefix(request: &ServiceRequest) -> Option<&str> {
    let prefix = request.headers().get(FORWARDED_PREFIX)?.to_str().ok()?.trim_end_matches('/');
    is_path(prefix).then_some(prefix)
}

/// Whether a text is a path of plain names, such as `/ops/outbox`.
fn is_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    let is_name = |name: &str| !name.is_empty() && name.chars().all(plain) && name.chars().any(|c| c != '.');
    let names = path.strip_prefix('/').map(|names| names.split('/').all(is_name));
    path.len() <= LONGEST && names.unwrap_or(path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_path_of_plain_names() {
        for path in ["", "/outbox", "/ops/outbox-2/v1.0", "/~ann/out_box"] {
            assert!(is_path(path), "{path}");
        }
        for path in ["outbox", "//evil.example", "/", "/a//b", "/a/../b", "/a b", "/\"><script>", "/%2f", "/a?b", "\\a"]
        {
            assert!(!is_path(path), "{path}");
        }
        assert!(!is_path(&format!("/{}", "x".repeat(LONGEST))));
    }
}
