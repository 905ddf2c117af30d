//! A cache that buys pages for as long as the hits they bring are worth their price.

use heapless::Vec;

use super::{Holding, Offer, Policy, curve_of};
use crate::board::Line;
use crate::types::{Price, Quantity, Segment};

/// The most points that a hit curve may have; further ones are left out.
pub const MAX_POINTS: usize = 32;

/// How many hits per interval a cache of so many pages has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitPoint {
    /// Pages in all, those of the base included.
    pub pages: Quantity,
    /// Expected hits per interval.
    pub hits: u64,
}

/// Bids for each page what the hits that it adds are worth.
///
/// The curve is the concave hull of the points, from nothing on: a working set that only pays when it fits whole is bid
/// for at its average, so it is bought whole or (the averages of a hull decrease) not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarginalHit<'a> {
    /// In ascending order of pages; points that are out of order are left out.
    pub points: &'a [HitPoint],
    /// What one hit is worth.
    pub per_hit: Price,
    /// What it costs to fill a page again that was lost.
    pub refill: Price,
}

impl Policy for MarginalHit<'_> {
    fn decide(&self, _board: &Line, holding: &Holding) -> Offer {
        let hull = hull(self.points);
        let mut steps: Vec<Segment, MAX_POINTS> = Vec::new();
        let mut before = HitPoint::default();
        for point in &hull {
            let pages = point.pages.saturating_sub(before.pages);
            let worth = u128::from(point.hits - before.hits) * u128::from(self.per_hit.0) / u128::from(pages.0.max(1));
            // What the base covers is paid for already.
            let from = before.pages.max(holding.lease.base);
            let step = Segment {
                value: Price(u64::try_from(worth).unwrap_or(u64::MAX)),
                quantity: point.pages.saturating_sub(from),
            };
            // As many steps as points of the hull.
            let _ = steps.push(step);
            before = *point;
        }
        Offer { curve: curve_of(&steps), keep: self.refill, max_payment: holding.free }
    }
}

/// The corners of the concave hull above the points, without the origin at which it starts. Both numbers strictly grow
/// from corner to corner, and hits per page never do.
fn hull(points: &[HitPoint]) -> Vec<HitPoint, MAX_POINTS> {
    let mut hull: Vec<HitPoint, MAX_POINTS> = Vec::new();
    let mut last_pages = Quantity::ZERO;
    for &point in points {
        let highest = hull.last().map_or(0, |corner| corner.hits);
        if point.pages <= last_pages || point.hits <= highest {
            continue;
        }
        last_pages = point.pages;
        while let Some(&corner) = hull.last() {
            let before = hull.len().checked_sub(2).map_or(HitPoint::default(), |at| hull[at]);
            if slope_is_higher(before, corner, point) {
                break;
            }
            hull.pop();
        }
        if hull.push(point).is_err() {
            break;
        }
    }
    hull
}

/// Whether the way from `before` to `corner` is steeper than that from `corner` to `point`.
fn slope_is_higher(before: HitPoint, corner: HitPoint, point: HitPoint) -> bool {
    let rise = |from: HitPoint, to: HitPoint| u128::from(to.hits - from.hits);
    let run = |from: HitPoint, to: HitPoint| u128::from(to.pages.saturating_sub(from.pages).0);
    rise(before, corner) * run(corner, point) > rise(corner, point) * run(before, corner)
}
