//! The cores of the host, and pinning threads to them.

/// The numbers of the cores that this process may use, in order.
pub fn usable_cores() -> Vec<usize> {
    let cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    if cores.is_empty() { vec![0] } else { cores }
}

/// Pins the calling thread to `core`; returns whether the kernel agreed.
pub fn pin_to(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_can_be_pinned_to_a_usable_core() {
        let cores = super::usable_cores();
        assert!(std::thread::spawn(move || super::pin_to(cores[0])).join().unwrap());
    }
}
