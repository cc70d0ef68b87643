//! The charts' common sizes and colours, which are readable on a light and on a dark page.

use plotters::prelude::*;

pub(crate) const WIDTH: u32 = 760;
pub(crate) const INK: RGBColor = RGBColor(128, 128, 136);
pub(crate) const LIMIT: RGBColor = RGBColor(148, 163, 184);
pub(crate) const OURS: RGBColor = RGBColor(37, 130, 190);
pub(crate) const LATE: RGBColor = RGBColor(217, 119, 6);

pub(crate) fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// A number with commas between thousands: 61,778.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!([7.0, 999.6, 61_778.2, 1_000_000.0].map(grouped), ["7", "1,000", "61,778", "1,000,000"]);
    }
}
