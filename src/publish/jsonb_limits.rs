//! Limits on JSON text that make it valid in every supported database.

use serde_json::value::RawValue;

/// The depth that `serde_json` reads, less the levels around the data.
pub(super) const MAX_DEPTH: usize = 100;
/// Python reads integers of up to 4300 digits, and `jsonb` at most 16383 digits after the point.
pub(super) const MAX_DIGITS: usize = 4000;

/// Checks that the text is JSON that `jsonb` can store, and returns the most bytes that it takes there.
pub(super) fn check(text: &str) -> Result<usize, String> {
    serde_json::from_str::<&RawValue>(text)
        .map_err(|error| format!("is not valid JSON (line {}, column {})", error.line(), error.column()))?;
    Scanner { bytes: text.as_bytes(), at: 0, depth: 0, size: 0 }.run()
}

/// Scans text that is known to be JSON.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    size: usize,
}

impl Scanner<'_> {
    fn run(mut self) -> Result<usize, String> {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                // `jsonb` writes a space after each of these, and no other space.
                b',' | b':' => self.skip(2),
                b' ' | b'\t' | b'\n' | b'\r' => self.skip(0),
                b'{' | b'[' => self.open()?,
                b'}' | b']' => {
                    self.depth -= 1;
                    self.skip(1);
                }
                _ => self.skip(1),
            }
        }
        Ok(self.size)
    }

    fn skip(&mut self, size: usize) {
        self.at += 1;
        self.size += size;
    }

    fn open(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nests deeper than {MAX_DEPTH} levels"));
        }
        self.skip(1);
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(b'\\') => self.escape()?,
                Some(b'"') | None => break,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        self.size += self.at - start;
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(code) = self.unicode_escape(self.at) else {
            self.at += 2;
            return Ok(());
        };
        self.at += 6;
        match code {
            0 => Err("contains U+0000 in a string, which databases cannot store".to_owned()),
            0xD800..=0xDBFF => match self.unicode_escape(self.at) {
                Some(0xDC00..=0xDFFF) => {
                    self.at += 6;
                    Ok(())
                }
                _ => Err(LONE_SURROGATE.to_owned()),
            },
            0xDC00..=0xDFFF => Err(LONE_SURROGATE.to_owned()),
            _ => Ok(()),
        }
    }

    /// The code of the `\uXXXX` escape that begins at this position, if there is one.
    fn unicode_escape(&self, at: usize) -> Option<u32> {
        let digits = self.bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    fn number(&mut self) -> Result<(), String> {
        let rest = &self.bytes[self.at..];
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        let token = std::str::from_utf8(&rest[..length]).unwrap_or_default();
        // `jsonb` writes an exponent out as digits, with a leading zero and a point if needed.
        let size = match token.split_once(['e', 'E']) {
            Some((digits, exponent)) => {
                exponent.parse::<i32>().ok().map(|exponent| digits.len() + exponent.unsigned_abs() as usize + 2)
            }
            None => Some(length),
        };
        let size = size.filter(|size| *size <= MAX_DIGITS);
        self.size += size.ok_or_else(|| format!("contains a number of more than {MAX_DIGITS} digits"))?;
        self.at += length;
        Ok(())
    }
}

const LONE_SURROGATE: &str = "contains half of a surrogate pair in a string, which databases cannot store";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_json_passes_and_is_counted_as_the_database_writes_it() {
        for (text, stored) in [
            (r#"{"a":[1,2],"b":null}"#, r#"{"a": [1, 2], "b": null}"#),
            (" [ true , \"x y\" ] ", r#"[true, "x y"]"#),
            ("1e10", "10000000000"),
            (r#""\\u0000""#, r#""\\u0000""#),
            (r#""\ud83d\ude00""#, "\"😀\""),
        ] {
            let size = check(text).unwrap();
            assert!(size >= stored.len() && size <= stored.len() + 16, "{text}: {size}");
        }
    }

    #[test]
    fn what_jsonb_refuses_is_refused() {
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        for (text, says) in [
            (r#"{"a":"x\u0000"}"#, "U+0000"),
            (r#"{"\u0000":1}"#, "U+0000"),
            (r#""\\\u0000""#, "U+0000"),
            (r#""\ud800""#, "surrogate"),
            (r#""\ud800\u0041""#, "surrogate"),
            (r#""\udc00""#, "surrogate"),
            ("1e3999", "digits"),
            ("-1E-99999999999999999999", "digits"),
            (&deep, "deeper"),
            ("{\"secret\":", "line 1, column 10"),
            ("", "not valid JSON"),
            ("1 2", "not valid JSON"),
            ("NaN", "not valid JSON"),
        ] {
            let problem = check(text).unwrap_err();
            assert!(problem.contains(says), "{text}: {problem}");
            assert!(!problem.contains("secret"));
        }
        assert!(check(&format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn what_serde_writes_without_nul_passes(text in "[^\u{0}]*", number: f64) {
            let json = serde_json::json!({ &text: [text, number] }).to_string();
            proptest::prop_assert!(check(&json).unwrap() >= json.len());
        }
    }
}
