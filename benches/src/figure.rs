//! What a measurement answers: figures, each beside the raw limit that was measured in the same process.

use serde::{Deserialize, Serialize};

use crate::stats::{median, percentile};

/// How large a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// As the aims say.
    Full,
    /// Tiny: it shows that the instrument works and nothing else.
    Quick,
}

impl Size {
    pub(crate) fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// What a figure should reach on two cores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    pub(crate) fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// What the machine can do at most, in the unit of the figure beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Raw {
    pub(crate) what: String,
    pub(crate) value: f64,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figure {
    /// Stable, for machines.
    pub(crate) id: String,
    /// What was measured, for people.
    pub(crate) what: String,
    pub(crate) value: f64,
    /// `s`, `MiB`, `B`, `%`, or what is counted, such as `steps/s`.
    pub(crate) unit: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) p50_micros: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) p99_micros: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) raw: Option<Raw>,
    /// The share of the raw limit that is reached; 1 is the limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) aim: Option<Aim>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) met: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) note: Option<String>,
}

impl Figure {
    pub(crate) fn new(id: &str, what: impl Into<String>, value: f64, unit: &str) -> Self {
        Self {
            id: id.to_owned(),
            what: what.into(),
            value,
            unit: unit.to_owned(),
            p50_micros: None,
            p99_micros: None,
            raw: None,
            ratio: None,
            aim: None,
            met: None,
            note: None,
        }
    }

    /// Latencies in microseconds, in any order.
    pub(crate) fn latencies(mut self, micros: &mut [f64]) -> Self {
        micros.sort_by(f64::total_cmp);
        self.p50_micros = percentile(micros, 50.0);
        self.p99_micros = percentile(micros, 99.0);
        self
    }

    pub(crate) fn raw(mut self, what: &str, value: f64) -> Self {
        // A length of time is the better the shorter it is, a rate the higher.
        self.ratio = Some(if self.unit == "s" { value / self.value } else { self.value / value });
        self.raw = Some(Raw { what: what.to_owned(), value });
        self
    }

    pub(crate) fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// Many rounds of the same figure as one: the median of each number, of ratios too, so that a machine that drifts from
/// round to round does not drift into them. Sizes that are not those of the aims meet none.
pub(crate) fn merge(rounds: &[Figure], size: Size) -> Option<Figure> {
    let mut merged = rounds.last()?.clone();
    let middle = |number: fn(&Figure) -> Option<f64>| median(rounds.iter().filter_map(number).collect());
    merged.value = middle(|figure| Some(figure.value))?;
    merged.p50_micros = middle(|figure| figure.p50_micros);
    merged.p99_micros = middle(|figure| figure.p99_micros);
    merged.ratio = middle(|figure| figure.ratio);
    let raw = middle(|figure| figure.raw.as_ref().map(|raw| raw.value));
    if let (Some(limit), Some(value)) = (&mut merged.raw, raw) {
        limit.value = value;
    }
    merged.met = merged.aim.filter(|_| size == Size::Full).map(|aim| aim.met(merged.value));
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(value: f64, raw: f64) -> Figure {
        Figure::new("a", "A", value, "steps/s").raw("limit", raw).aim(Aim::AtLeast(100.0))
    }

    #[test]
    fn rounds_become_medians_and_ratios_are_taken_within_a_round() {
        let rounds = [round(90.0, 900.0), round(100.0, 200.0), round(300.0, 400.0)];
        let merged = merge(&rounds, Size::Full).unwrap();
        assert_eq!((merged.value, merged.ratio), (100.0, Some(0.5)));
        assert_eq!(merged.raw.unwrap().value, 400.0);
        assert_eq!(merged.met, Some(true));
        assert_eq!(merge(&rounds[..1], Size::Full).unwrap().met, Some(false));
        assert_eq!(merge(&rounds, Size::Quick).unwrap().met, None);
        assert_eq!(merge(&[], Size::Full), None);
    }

    #[test]
    fn the_ratio_is_the_share_of_the_limit_for_rates_and_for_times() {
        assert_eq!(round(50.0, 200.0).ratio, Some(0.25));
        assert_eq!(Figure::new("t", "T", 4.0, "s").raw("limit", 1.0).ratio, Some(0.25));
    }
}
