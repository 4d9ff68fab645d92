//! The node-wide share of processor time. Alone in its process, as it measures what that takes.

mod shared;

use kernel::{Compiler, Config, Kernel, fixture, fixture::Memory};
use protocol::api::Limits;

use shared::{call, load};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_share_a_part_of_one_processor_and_all_get_their_turn() {
    let home = tempfile::tempdir().expect("folder");
    let burned = async |percent: u32| {
        let place = home.path().join(percent.to_string());
        let config = Config { cpu_percent: percent, ..Config::new(place, [1; 32], Compiler::InProcess) };
        let kernel = Kernel::new(config).expect("kernel");
        let plugin = load(&kernel, &fixture::misbehaving()).await;
        // Two that loop until they are stopped, and one that asks for little again and again.
        let limits = Limits { fuel: u64::MAX, wall_ms: 600_000, ..Limits::default() };
        let loops: Vec<_> = (0..2)
            .map(|_| {
                let (kernel, plugin) = (kernel.clone(), plugin.clone());
                tokio::spawn(async move { kernel.call(&plugin, call("loop", "{}", &Memory::default(), limits)).await })
            })
            .collect();
        let before = cpu();
        let begun = std::time::Instant::now();
        let mut answered = 0;
        while begun.elapsed().as_millis() < 1_500 {
            kernel.call(&plugin, call("echo", "{}", &Memory::default(), Limits::default())).await.result.expect("its turn");
            answered += 1;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let used = cpu() - before;
        loops.iter().for_each(tokio::task::JoinHandle::abort);
        (used / begun.elapsed().as_secs_f64(), answered)
    };
    let ((free, _), (held, answered)) = (burned(0).await, burned(25).await);
    assert!(held < free / 2.0, "{held:.2} of a processor with a share of 0.25, {free:.2} without");
    assert!(answered >= 3, "{answered} short calls beside two loops");
    // Without a share of their own, loops leave one processor to others.
    let processors = std::thread::available_parallelism().expect("Linux").get();
    assert!(processors == 1 || free < processors as f64 - 0.6, "{free:.2} of {processors} processors");
}

/// Seconds of processor time that this thread's process has used.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}
