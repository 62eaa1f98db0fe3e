//! What a figure is, and the macro that makes a struct of counters together with its description.

/// Whether a figure is a state or a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A state: how many there are now.
    Now,
    /// A sum: how many there have been since the start.
    Total,
}

/// Counters that are one metric and are told apart by a label. Each counter has the family's name, an underscore and
/// the label's value for a name: `connections_sse` is `connections{transport="sse"}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The metric's name.
    pub name: &'static str,
    /// The label's name.
    pub label: &'static str,
    /// What the counters are together, as a sentence.
    pub about: &'static str,
}

/// How the values of a metric are told apart, apart from the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The metric has one value.
    None,
    /// The figure is one of a family.
    Of(&'static Family),
    /// The figure is a list: one value for each value of the label.
    Each {
        /// The label's name.
        name: &'static str,
        /// The label's values, in the order of the list.
        values: &'static [&'static str],
    },
}

/// What one counter of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The counter's name, with its unit at the end.
    pub name: &'static str,
    /// What is counted, as a sentence.
    pub about: &'static str,
    /// Whether the counter is a state or a sum.
    pub kind: Kind,
    /// How the counter's values are told apart.
    pub label: Label,
}

impl Figure {
    /// The name and the description that the counter's metric goes by.
    pub fn metric(&self) -> (&'static str, &'static str) {
        match self.label {
            Label::Of(family) => (family.name, family.about),
            Label::None | Label::Each { .. } => (self.name, self.about),
        }
    }

    /// The name of the metric's label, if the metric has one.
    pub fn label(&self) -> Option<&'static str> {
        match self.label {
            Label::None => None,
            Label::Of(family) => Some(family.label),
            Label::Each { name, .. } => Some(name),
        }
    }

    /// The label's value at a place of the counter's values.
    pub fn label_value(&self, place: usize) -> Option<&'static str> {
        match self.label {
            Label::None => None,
            Label::Of(family) => self.name.strip_prefix(family.name)?.strip_prefix('_'),
            Label::Each { values, .. } => values.get(place).copied(),
        }
    }
}

/// What a figure counts in. The unit is the end of the figure's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things: events, connections, sends.
    Things,
    /// Bytes (`_bytes`).
    Bytes,
    /// Milliseconds (`_ms`).
    Milliseconds,
    /// Microseconds (`_us`).
    Microseconds,
}

impl Unit {
    /// Parts a figure's name into what stands before the unit, and the unit.
    pub fn split(name: &str) -> (&str, Unit) {
        let units = [("_bytes", Unit::Bytes), ("_ms", Unit::Milliseconds), ("_us", Unit::Microseconds)];
        let found = units.into_iter().find_map(|(suffix, unit)| Some((name.strip_suffix(suffix)?, unit)));
        found.unwrap_or((name, Unit::Things))
    }

    /// By what a value is divided to be in bytes, seconds or things, which are what metrics are in.
    pub fn divisor(self) -> f64 {
        match self {
            Unit::Things | Unit::Bytes => 1.0,
            Unit::Milliseconds => 1e3,
            Unit::Microseconds => 1e6,
        }
    }
}

/// Makes a struct with a counter per line, generic over what a counter is: `u64` for the thread that counts, `AtomicU64`
/// for others to read. After the counters stand lists of counters, each by a label.
macro_rules! table {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Table:ident;
        $($(#[doc = $about:literal])+ $kind:ident $name:ident $(in $family:ident)?,)*
        lists { $($(#[doc = $list_about:literal])+ $list_kind:ident $list:ident by $label:literal of $values:expr,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        $vis struct $Table<T> {
            $($(#[doc = $about])+ $vis $name: T,)*
            $($(#[doc = $list_about])+ $vis $list: [T; $values.len()],)*
        }

        impl<T> $Table<T> {
            /// What each counter is, in the order of [`Self::values`].
            $vis const FIGURES: &'static [$crate::figures::Figure] = &[
                $($crate::figures::Figure {
                    name: stringify!($name),
                    about: concat!($($about),+),
                    kind: $crate::figures::Kind::$kind,
                    label: table!(@label $($family)?),
                },)*
                $($crate::figures::Figure {
                    name: stringify!($list),
                    about: concat!($($list_about),+),
                    kind: $crate::figures::Kind::$list_kind,
                    label: $crate::figures::Label::Each { name: $label, values: $values },
                },)*
            ];

            /// The values of each counter: one, or those of a list.
            $vis fn values(&self) -> impl Iterator<Item = &[T]> {
                let counters = [$(std::slice::from_ref(&self.$name),)*];
                let lists: [&[T]; _] = [$(&self.$list[..],)*];
                counters.into_iter().chain(lists)
            }

            /// Shows each value beside the other table's.
            $vis fn zip<U>(&self, other: &$Table<U>, mut show: impl FnMut(&T, &U)) {
                $(show(&self.$name, &other.$name);)*
                $(self.$list.iter().zip(&other.$list).for_each(|(own, other)| show(own, other));)*
            }
        }
    };
    (@label) => { $crate::figures::Label::None };
    (@label $family:ident) => { $crate::figures::Label::Of(&$family) };
}

pub(super) use table;

#[cfg(test)]
mod tests {
    use super::*;

    const FRUIT: Family = Family { name: "fruit", label: "sort", about: "Fruit now." };
    const COLOURS: &[&str] = &["red", "green"];

    table! {
        /// A table for this test.
        struct Basket;
        /// Apples now.
        Now fruit_apple in FRUIT,
        /// Time in which apples were picked.
        Total picking_ms,
        lists {
            /// Leaves fallen, by colour.
            Total leaves by "colour" of COLOURS,
        }
    }

    #[test]
    fn counters_are_described_in_their_order() {
        let basket = Basket { fruit_apple: 1, picking_ms: 2, leaves: [3, 4] };
        let values: Vec<&[i32]> = basket.values().collect();
        assert_eq!(values, [&[1][..], &[2], &[3, 4]]);
        let [apple, picking, leaves] = Basket::<u64>::FIGURES else { panic!() };
        assert_eq!((apple.name, apple.metric()), ("fruit_apple", ("fruit", "Fruit now.")));
        assert_eq!((apple.label(), apple.label_value(0)), (Some("sort"), Some("apple")));
        assert_eq!((picking.kind, picking.label()), (Kind::Total, None));
        assert_eq!((leaves.label_value(1), leaves.label_value(2)), (Some("green"), None));
        let mut sums = Vec::new();
        basket.zip(&Basket { fruit_apple: 10, picking_ms: 20, leaves: [30, 40] }, |a, b| sums.push(a + b));
        assert_eq!(sums, [11, 22, 33, 44]);
    }

    #[test]
    fn a_name_ends_in_its_unit() {
        assert_eq!(Unit::split("sent_bytes"), ("sent", Unit::Bytes));
        assert_eq!(Unit::split("busy_us"), ("busy", Unit::Microseconds));
        assert_eq!(Unit::split("congested_ms"), ("congested", Unit::Milliseconds));
        assert_eq!(Unit::split("history_events"), ("history_events", Unit::Things));
    }
}
