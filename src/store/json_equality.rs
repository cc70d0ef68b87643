//! Compares JSON texts by value, as PostgreSQL's `jsonb` does.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Ignores spaces, the order of members and the spelling of strings and numbers; of a repeated name the last one counts.
///
/// Text that is not JSON equals only itself.
pub(super) fn are_equal(a: &str, b: &str) -> bool {
    a == b || is_same_with(a, b, are_same)
}

/// Compares two objects without the members of these names.
pub(super) fn are_equal_without(names: &[&str], a: &str, b: &str) -> bool {
    let are_same = |mut a: Members, mut b: Members| {
        a.retain(|name, _| !names.contains(&name.as_str()));
        b.retain(|name, _| !names.contains(&name.as_str()));
        are_same_members(&a, &b)
    };
    a == b || is_same_with(a, b, are_same)
}

/// Reads both texts as `T` and compares them; `T` borrows from the text, so that numbers keep every digit.
fn is_same_with<'a, T: serde::Deserialize<'a>>(a: &'a str, b: &'a str, are_same: impl Fn(T, T) -> bool) -> bool {
    match (serde_json::from_str(a), serde_json::from_str(b)) {
        (Ok(a), Ok(b)) => are_same(a, b),
        _ => false,
    }
}

fn are_same(a: &RawValue, b: &RawValue) -> bool {
    let (a, b) = (a.get(), b.get());
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => is_same_with(a, b, |a: Members, b: Members| are_same_members(&a, &b)),
        (Some(b'['), Some(b'[')) => is_same_with(a, b, |a: Vec<&RawValue>, b: Vec<&RawValue>| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| are_same(a, b))
        }),
        (Some(b'"'), Some(b'"')) => is_same_with(a, b, |a: String, b: String| a == b),
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => Decimal::parse(a) == Decimal::parse(b),
        _ => a == b,
    }
}

fn are_same_members(a: &Members, b: &Members) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((name, a), (other, b))| name == other && are_same(a, b))
}

/// A number as its digits without zeros at either end, and the power of ten of its last digit.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn parse(token: &str) -> Self {
        let (is_negative, token) = token.strip_prefix('-').map_or((false, token), |rest| (true, rest));
        let (number, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let all = format!("{whole}{fraction}");
        let kept = all.trim_end_matches('0');
        let dropped = all.len() - kept.len();
        let digits = kept.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            return Self { is_negative: false, digits, exponent: 0 };
        }
        let exponent = exponent.parse().unwrap_or(i64::MAX).saturating_add_unsigned(dropped as u64);
        Self { is_negative, digits, exponent: exponent.saturating_sub_unsigned(fraction.len() as u64) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_value_is_equal_however_it_is_written() {
        for (a, b) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true, null ],\n\"a\" : 1.0 }"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#""\u00e9\/""#, "\"é/\""),
            ("100", "1e2"),
            ("1.50", "15E-1"),
            ("-0", "0.00"),
            ("12345678901234567890.10", "12345678901234567890.1"),
            (" [] ", "[]"),
        ] {
            assert!(are_equal(a, b) && are_equal(b, a), "{a} {b}");
        }
    }

    #[test]
    fn another_value_is_not_equal() {
        for (a, b) in [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            (r#"{"a":null}"#, "{}"),
            ("[1,2]", "[2,1]"),
            ("[1]", "[1,1]"),
            ("\"1\"", "1"),
            ("0", "false"),
            ("1", "-1"),
            ("10", "1"),
            ("12345678901234567891", "12345678901234567890"),
            ("{}", "[]"),
            ("no", "JSON"),
        ] {
            assert!(!are_equal(a, b) && !are_equal(b, a), "{a} {b}");
        }
    }

    #[test]
    fn members_that_do_not_count_are_left_out() {
        assert!(are_equal_without(&["x"], r#"{"a":1,"x":1}"#, r#"{"x":2,"a":1}"#));
        assert!(are_equal_without(&["x"], r#"{"x":1}"#, "{}"));
        assert!(!are_equal_without(&["x"], r#"{"a":1,"x":1}"#, r#"{"a":2,"x":1}"#));
    }

    proptest! {
        #[test]
        fn a_number_equals_itself_with_its_point_elsewhere(digits in 1_i64..1_000_000_000, shift in 0_u32..8) {
            let moved = format!("{digits}e-{shift}");
            let mut plain = format!("{digits:0>10}");
            plain.insert(plain.len() - shift as usize, '.');
            let plain = format!("{plain}0");
            prop_assert_eq!(Decimal::parse(&moved), Decimal::parse(&plain));
            prop_assert_ne!(Decimal::parse(&moved), Decimal::parse(&format!("{}e-{shift}", digits + 1)));
        }
    }
}
