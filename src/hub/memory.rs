//! The hub's budget of memory.

use crate::config::{Limits, memory_budget};

/// The least budget where the configuration leaves it to the host's memory.
const BUDGET_MIN: u64 = 256 << 20;

/// The bytes that names, histories, answers to publishers and lines for listeners may take together. `available` is the
/// memory that the process may use, if that is known.
pub fn memory_max(limits: &Limits, available: Option<u64>) -> u64 {
    memory_budget(limits.hub_memory, available, BUDGET_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_value_the_budget_is_a_quarter_of_the_memory_there_is() {
        let mut limits = Limits::default();
        assert_eq!(memory_max(&limits, Some(8 << 30)), 2 << 30);
        assert_eq!(memory_max(&limits, Some(100 << 20)), BUDGET_MIN);
        assert_eq!(memory_max(&limits, None), BUDGET_MIN);
        limits.hub_memory = 17 << 20;
        assert_eq!(memory_max(&limits, Some(8 << 30)), 17 << 20);
    }
}
