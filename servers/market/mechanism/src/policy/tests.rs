//! What each policy promises, on small cases.

use super::*;

fn line(round: u64, clearing: u64) -> Line {
    Line { round: RoundNo(round), clearing: Price(clearing), ..Line::default() }
}

fn holding(base: u32, running: u32, next: u32, free: i128) -> Holding {
    Holding {
        lease: Lease { base: Quantity(base), running: Quantity(running), next: Quantity(next) },
        free: Credits(free),
    }
}

fn steps(offer: &Offer) -> std::vec::Vec<(u32, u64)> {
    let segments = offer.curve.segments();
    segments.iter().map(|part| (part.quantity.0, part.value.0)).collect()
}

fn segments(list: &[(u32, u64)]) -> std::vec::Vec<Segment> {
    list.iter().map(|&(quantity, value)| Segment { value: Price(value), quantity: Quantity(quantity) }).collect()
}

#[test]
fn a_curve_never_says_more_than_its_steps() {
    let steps: std::vec::Vec<(u32, u64)> = (0..20).map(|at| (1, 100 - at * at / 4)).collect();
    let exact = segments(&steps);
    let curve = curve_of(&exact);
    assert_eq!(curve.segments().len(), MAX_SEGMENTS);
    assert_eq!(curve.demand(), Quantity(20));
    for (unit, step) in (1..).zip(&exact) {
        assert!(curve.marginal(Quantity(unit)) <= step.value);
    }
    // Rising steps are lowered, empty ones left out, equal ones joined.
    let curve = curve_of(&segments(&[(2, 5), (0, 9), (1, 7), (3, 5), (1, 1)]));
    assert_eq!(curve.segments(), segments(&[(6, 5), (1, 1)]));
    let curve = curve_of(&segments(&[(u32::MAX, 5), (1, 3)]));
    assert_eq!(curve.demand(), Quantity(u32::MAX));
}

#[test]
fn a_fixed_bid_stays_the_same() {
    let fixed = FixedBid { units: Quantity(3), value: Price(8), keep: Price(1) };
    for (price, held) in [(1, 0), (100, 3)] {
        let offer = fixed.decide(&line(5, price), &holding(1, held, held, 70));
        assert_eq!(steps(&offer), [(3, 8)]);
        assert_eq!((offer.keep, offer.max_payment), (Price(1), Credits(70)));
    }
}

#[test]
fn a_pacer_spends_its_budget_and_no_more() {
    // At 10 a round all rounds would cost 10,000; the budget is 4,000, so about 40 % of the rounds are won.
    let wanted = Paced {
        policy: FixedBid { units: Quantity(1), value: Price(40), keep: Price(0) },
        pacer: Pacer::new(Credits(4_000), 1_000, 40),
    };
    let mut paced = wanted;
    let mut spent = 0;
    for round in 0..1_000u64 {
        // Somebody else's bid, between 5 and 25.
        let price = 5 + (round * 7_919) % 21;
        let offer = paced.decide(&line(round, price), &holding(0, 0, 0, 1 << 40));
        let bid = offer.curve.marginal(Quantity(1)).0;
        let wins = bid > price && i128::from(bid) <= offer.max_payment.0;
        let paid = if wins { i128::from(price) } else { 0 };
        assert!(paid <= paced.pacer.budget().0);
        spent += paid;
        paced.pacer.observe(Credits(paid));
    }
    assert!((3_600..=4_000).contains(&spent), "{spent}");
    assert_eq!(paced.pacer.share(), Credits(0));
}

#[test]
fn a_pacer_leaves_a_bid_alone_while_money_is_not_scarce() {
    let mut pacer = Pacer::new(Credits(1_000_000), 10, 2);
    let offer = Offer { curve: curve_of(&segments(&[(2, 9), (3, 4)])), keep: Price(2), max_payment: Credits(500) };
    assert_eq!(pacer.pace(&offer), offer);
    pacer.observe(Credits(10));
    assert_eq!(pacer.pace(&offer), offer);
    pacer.observe(Credits(900_000));
    let scaled = pacer.pace(&offer);
    assert_eq!(steps(&scaled), [(2, 8), (3, 3)]);
    assert_eq!(scaled.keep, Price(1));
}

const JOB: TargetDeadline = TargetDeadline {
    work_left: 1_000,
    work_per_unit: 10,
    deadline: RoundNo(11),
    value: Credits(5_000),
    expected_price: Price(20),
    max_units: Quantity(50),
};

#[test]
fn a_deadline_needs_an_even_share_and_works_ahead_when_cheap() {
    // 100 unit-intervals over the intervals 2 to 11: ten each, worth 5,000 / 100.
    let offer = JOB.decide(&line(0, 7), &holding(0, 0, 0, 900));
    assert_eq!(steps(&offer), [(10, 50), (40, 20)]);
    assert_eq!(offer.max_payment, Credits(900));
    // Later the same work needs more per interval.
    let offer = JOB.decide(&line(8, 7), &holding(0, 0, 0, 900));
    assert_eq!(steps(&offer), [(50, 50)]);
}

#[test]
fn a_deadline_counts_what_is_bought_and_the_base() {
    // Next interval: 2 base and 8 leased do 100; then the base does 2 x 10 x 10. 700 left, 70 over ten intervals.
    let offer = JOB.decide(&line(0, 7), &holding(2, 0, 8, 900));
    assert_eq!(steps(&offer), [(7, 71), (43, 20)]);
    assert_eq!(JOB.decide(&line(0, 7), &holding(10, 0, 0, 900)), Offer::NONE);
    assert_eq!(JOB.decide(&line(10, 7), &holding(0, 0, 0, 900)), Offer::NONE);
    let done = TargetDeadline { work_left: 0, ..JOB };
    assert_eq!(done.decide(&line(0, 7), &holding(0, 0, 0, 900)), Offer::NONE);
}

#[test]
fn a_deadline_policy_finishes_in_time_and_waits_for_low_prices() {
    let mut job = JOB;
    let (mut running, mut next, mut cost) = (0u32, 0u32, 0u64);
    for round in 0..=11u64 {
        let price = if (4..7).contains(&round) { 12 } else { 30 };
        let offer = job.decide(&line(round, price), &holding(0, running, next, 1 << 40));
        let segments = offer.curve.segments().iter();
        let won: u32 = segments.filter(|segment| segment.value.0 >= price).map(|segment| segment.quantity.0).sum();
        cost += u64::from(won) * price;
        // The interval passes: what runs works, and what was won moves up.
        job.work_left = job.work_left.saturating_sub(u64::from(running) * job.work_per_unit);
        (running, next) = (next, won);
    }
    assert_eq!(job.work_left, 0);
    assert!(cost < 100 * 30, "{cost}");
}

fn points(list: &[(u32, u64)]) -> std::vec::Vec<HitPoint> {
    list.iter().map(|&(pages, hits)| HitPoint { pages: Quantity(pages), hits }).collect()
}

#[test]
fn a_cache_bids_what_each_page_brings() {
    let points = points(&[(10, 100), (20, 150), (30, 160), (40, 160)]);
    let cache = MarginalHit { points: &points, per_hit: Price(3), refill: Price(2) };
    let offer = cache.decide(&line(0, 0), &holding(0, 0, 0, 77));
    assert_eq!(steps(&offer), [(10, 30), (10, 15), (10, 3)]);
    assert_eq!((offer.keep, offer.max_payment), (Price(2), Credits(77)));
    // What the base covers is not bid for.
    let offer = cache.decide(&line(0, 0), &holding(14, 0, 0, 77));
    assert_eq!(steps(&offer), [(6, 15), (10, 3)]);
}

#[test]
fn a_working_set_is_bid_for_as_a_whole() {
    // A cliff: nothing until 20 pages.
    let points = points(&[(5, 0), (10, 1), (20, 100), (15, 3), (25, 105)]);
    let cache = MarginalHit { points: &points, per_hit: Price(4), refill: Price(0) };
    let offer = cache.decide(&line(0, 0), &holding(0, 0, 0, 77));
    assert_eq!(steps(&offer), [(20, 20), (5, 4)]);
}

#[test]
fn extreme_numbers_make_no_policy_fail() {
    let most = Quantity(u32::MAX);
    let points: std::vec::Vec<HitPoint> = (0..40)
        .map(|at| HitPoint { pages: Quantity(u32::MAX - 40 + at), hits: u64::MAX - 80 + 2 * u64::from(at) })
        .collect();
    let cache = MarginalHit { points: &points, per_hit: Price(u64::MAX), refill: Price(u64::MAX) };
    let job = TargetDeadline {
        work_left: u64::MAX,
        work_per_unit: 0,
        deadline: RoundNo(u64::MAX),
        value: Credits::MAX,
        expected_price: Price(u64::MAX),
        max_units: most,
    };
    let fixed = FixedBid { units: most, value: Price(u64::MAX), keep: Price(u64::MAX) };
    let pacer = Pacer::new(Credits::MAX, 1, u32::MAX);
    for round in [0, u64::MAX] {
        let board = line(round, u64::MAX);
        for held in [0, u32::MAX] {
            let holding = holding(held, held, held, Credits::MAX.0);
            let paced = Paced { policy: fixed, pacer };
            let hurried = TargetDeadline { work_per_unit: u64::MAX, ..job };
            let policies: [&dyn Policy; 5] = [&cache, &job, &hurried, &fixed, &paced];
            for policy in policies {
                let bid = policy.decide(&board, &holding).bid(AccountId(1), RoundNo(0));
                assert_eq!(bid.check(), Ok(()));
            }
        }
    }
}
