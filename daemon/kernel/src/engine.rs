//! The one wasmtime engine of a node, and why it is set as it is.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Result};

/// The most memory that one linear memory can have, whatever a call's limits allow. It is address space that
/// each slot of the pool reserves, not memory in use: 500 slots take 125 GiB, which fits the 39 bits of small boards.
pub const MAX_MEMORY: u64 = 256 << 20;

/// What decides how code is compiled. The engine that runs and the one that compiles in a child must agree on
/// every line, or the code is refused.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false) // the interface is synchronous; saves its bookkeeping in each store
        .consume_fuel(true) // metering must give the same number on every machine
        .epoch_interruption(true) // and a deadline must hold for code that uses little fuel slowly
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true) // the same bits on every machine
        .wasm_relaxed_simd(false) // likewise
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        .memory_reservation(MAX_MEMORY)
        .memory_guard_size(64 << 10)
        .memory_reservation_for_growth(0)
        .memory_init_cow(true); // a fresh instance for each call maps its data, it doesn't copy it
    config
}

/// An engine that compiles and never runs: it reserves no pool.
pub(crate) fn compiler() -> Result<Engine> {
    Engine::new(&settings())
}

/// The engine that runs up to `calls` instances at a time.
pub(crate) fn runner(calls: u32) -> Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(40)) // Python's components have 38
        .total_memories(calls.saturating_mul(4))
        .total_tables(calls.saturating_mul(8))
        .total_stacks(calls)
        .max_core_instances_per_component(40)
        .max_memories_per_component(8)
        .max_memories_per_module(8)
        .max_tables_per_module(8)
        .max_tables_per_component(64)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .table_elements(64 << 10)
        .max_memory_size(usize::try_from(MAX_MEMORY).expect("wasmtime's pool runs on 64-bit machines"))
        .max_unused_warm_slots(8)
        .linear_memory_keep_resident(1 << 20) // zeroing what was touched is quicker than returning it; a slot for each call at once
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut config = settings();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Names everything that compiled code depends on besides its source: wasmtime's version, the settings, the CPU.
pub(crate) fn compatibility(engine: &Engine) -> String {
    use std::hash::{Hash as _, Hasher};

    // The standard library's hashers may change between releases; this one's output names files.
    struct Stable(blake3::Hasher);
    impl Hasher for Stable {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            u64::from_le_bytes(self.0.finalize().as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
        }
    }

    let mut hasher = Stable(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compiles_and_what_runs_agree() {
        let (compiler, runner) = (compiler().expect("engine"), runner(4).expect("engine"));
        assert_eq!(compatibility(&compiler), compatibility(&runner));
    }
}
