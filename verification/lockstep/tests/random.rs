//! Random sequences, near-valid ones mostly.

use lockstep::campaign;

#[test]
fn smoke() {
    let n: u64 = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let seed: u64 = std::env::var("SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let t = std::time::Instant::now();
    match campaign::run(seed, n, None) {
        Ok(report) => {
            println!("{} steps {:?}", report.steps, t.elapsed());
            println!("{:?}", report.done);
            let counts = report.seen.counts();
            println!("refusals {} {:?}", counts.iter().map(|c| c.0).sum::<usize>(), &counts[..40]);
            println!("missing {:?}", report.seen.missing());
            println!("unknown {:?}", report.seen.unknown());
        }
        Err(failure) => panic!("{failure}"),
    }
}
