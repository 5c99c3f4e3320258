//! Lines of charts as paths of SVG.

use std::fmt::Write as _;

/// The size of a chart's drawing; it is scaled to the page.
pub(super) const WIDTH: f64 = 600.0;
pub(super) const HEIGHT: f64 = 120.0;

/// Room at the top and bottom, for the width of the line.
const MARGIN: f64 = 2.0;

/// The line through these values, of which the largest is `max`. `None` leaves a gap; a value alone is a dot.
pub(super) fn line(values: &[Option<f64>], max: f64) -> String {
    let mut path = String::new();
    let mut is_on = false;
    for (number, value) in values.iter().enumerate() {
        let Some(value) = value else {
            is_on = false;
            continue;
        };
        let (x, y) = (x(number, values.len()), y(*value, max));
        let is_last = !values.get(number + 1).is_some_and(Option::is_some);
        // Writing to a string does not fail.
        match (is_on, is_last) {
            (false, true) => write!(path, "M{x:.1} {y:.1}h.1").ok(),
            (false, false) => write!(path, "M{x:.1} {y:.1}").ok(),
            (true, _) => write!(path, "L{x:.1} {y:.1}").ok(),
        };
        is_on = true;
    }
    path
}

/// The area below the line, down to nothing.
pub(super) fn area(values: &[f64], max: f64) -> String {
    if values.is_empty() {
        return String::new();
    }
    let count = values.len();
    let mut path = format!("M{:.1} {:.1}", x(0, count), y(0.0, max));
    for (number, value) in values.iter().enumerate() {
        write!(path, "L{:.1} {:.1}", x(number, count), y(*value, max)).ok();
    }
    write!(path, "L{:.1} {:.1}Z", x(count - 1, count), y(0.0, max)).ok();
    path
}

/// The largest value; something where there is nothing.
pub(super) fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

#[expect(clippy::cast_precision_loss, reason = "some hundred points")]
fn x(number: usize, count: usize) -> f64 {
    let last = count.saturating_sub(1).max(1);
    WIDTH * number as f64 / last as f64
}

fn y(value: f64, max: f64) -> f64 {
    let part = if max > 0.0 { value / max } else { 0.0 };
    let room = HEIGHT - 2.0 * MARGIN;
    HEIGHT - MARGIN - room * part.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_gaps_and_nothing_is_outside() {
        let path = line(&[Some(0.0), Some(1.0), None, Some(0.5), Some(9.0)], 1.0);
        assert_eq!(path, "M0.0 118.0L150.0 2.0M450.0 60.0L600.0 2.0");
        assert_eq!(line(&[None, Some(1.0)], 1.0), "M600.0 2.0h.1");
        assert_eq!(line(&[], 1.0), "");
        assert_eq!(area(&[], 1.0), "");
        assert_eq!(
            area(&[0.0, 0.0], 0.0),
            "M0.0 118.0L0.0 118.0L600.0 118.0L600.0 118.0Z"
        );
        assert!((largest([1.0, 3.0, 2.0].into_iter()) - 3.0).abs() < 1e-9);
    }
}
