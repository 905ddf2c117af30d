//! Charts: blocks on the terminal, and an SVG of the prices.

use super::page_interval_samples;
use crate::run_state::{GoodState, RunState};
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::fmt::Write as _;
use std::path::Path;

const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const COLUMNS: usize = 72;

/// One row of bars: the largest value in each of `columns` slices of time up to `last`.
pub fn bars(points: &[(u64, f64)], last: u64, columns: usize, most: f64) -> String {
    slices(points, last, columns).into_iter().map(|value| value.map_or(' ', |value| block(value / most))).collect()
}

fn block(level: f64) -> char {
    let eighths = (level.clamp(0.0, 1.0) * 8.0).ceil() as usize;
    BLOCKS[eighths.min(8)]
}

/// The largest value in each slice; an empty slice has the value before it.
fn slices(points: &[(u64, f64)], last: u64, columns: usize) -> Vec<Option<f64>> {
    let mut values: Vec<Option<f64>> = vec![None; columns];
    for &(t, value) in points {
        let column = (u128::from(t) * columns as u128 / (u128::from(last) + 1)) as usize;
        let slot = &mut values[column.min(columns - 1)];
        *slot = Some(slot.map_or(value, |old| old.max(value)));
    }
    let mut before = None;
    for value in &mut values {
        *value = value.or(before);
        before = *value;
    }
    values
}

fn points(good: &GoodState) -> Vec<(u64, f64)> {
    good.history.iter().map(|sample| (sample.t, good.per_hour_f64(sample.clearing))).collect()
}

/// The end of a chart's scale: the highest value, unless it is one of a few far above all others, which would hide
/// everything else.
fn scale(points: &[(u64, f64)], highest: f64) -> f64 {
    let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
    values.sort_by(f64::total_cmp);
    let high = values.get(values.len() * 95 / 100).copied().unwrap_or(highest);
    if highest > 4.0 * high { 1.25 * high } else { highest }
}

/// Clearing prices over time, four rows of blocks per good.
pub fn prices(state: &RunState) -> String {
    const ROWS: usize = 4;
    let mut text = String::new();
    let last = state.now.max(1);
    for good in state.goods.iter().filter(|good| !good.history.is_empty()) {
        let points = points(good);
        let highest = points.iter().map(|point| point.1).fold(0.0, f64::max);
        let most = scale(&points, highest);
        let _ = write!(text, "{}: clearing price in {}, 0 to {most:.6}", good.name, good.price_unit());
        let _ = if highest > most { writeln!(text, " (highest {highest:.6})") } else { writeln!(text) };
        let values = slices(&points, last, COLUMNS);
        for row in (0..ROWS).rev() {
            let level = |value: &Option<f64>| {
                value.map_or(' ', |value| block(value / most.max(f64::MIN_POSITIVE) * ROWS as f64 - row as f64))
            };
            let _ = writeln!(text, "  |{}", values.iter().map(level).collect::<String>().trim_end());
        }
        let _ = writeln!(text, "  +{} {:.1} s", "-".repeat(COLUMNS), last as f64 / 1e6);
    }
    text
}

/// Draws the clearing prices: memory, CPU time, bandwidth and functions one below the other, each with its own scale.
///
/// # Errors
/// When the file can't be written.
pub fn svg(state: &RunState, path: &Path) -> Result<()> {
    draw(state, path).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

fn draw(state: &RunState, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, (960, 640)).into_drawing_area();
    area.fill(&WHITE)?;
    // Goods with the same unit are neighbours.
    let parts: Vec<&[GoodState]> = state.goods.chunk_by(|a, b| a.price_unit() == b.price_unit()).collect();
    for (part, goods) in area.split_evenly((parts.len().max(1), 1)).into_iter().zip(parts) {
        let most = goods.iter().flat_map(points).map(|point| point.1).fold(0.0, f64::max);
        let unit = goods.first().map_or("", |good| good.price_unit());
        let end = (state.now as f64 / 1e6).max(0.001);
        let mut chart = ChartBuilder::on(&part)
            .margin(12)
            .caption(format!("clearing price, {unit}"), ("sans-serif", 18))
            .x_label_area_size(36)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..end, 0.0..(most * 1.1).max(1e-9))?;
        chart.configure_mesh().x_desc("virtual time, s").light_line_style(WHITE).draw()?;
        for (number, good) in goods.iter().enumerate() {
            let colour = Palette99::pick(number).to_rgba();
            let line = page_interval_samples(good).into_iter();
            let line = line.map(|sample| (sample.t as f64 / 1e6, good.per_hour_f64(sample.clearing)));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                .label(good.name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_spike_does_not_hide_the_rest() {
        let flat: Vec<(u64, f64)> = (0..100).map(|t| (t, 1.0)).collect();
        assert_eq!(scale(&flat, 1.0), 1.0);
        let mut spiked = flat;
        spiked[50].1 = 100.0;
        assert_eq!(scale(&spiked, 100.0), 1.25);
        spiked[50].1 = 3.0;
        assert_eq!(scale(&spiked, 3.0), 3.0);
    }

    #[test]
    fn bars_follow_the_values() {
        let points = [(0, 0.0), (50, 8.0), (99, 4.0)];
        assert_eq!(bars(&points, 99, 4, 8.0), "  █▄");
        assert_eq!(bars(&[(0, 1.0)], 99, 3, 8.0), "▁▁▁", "a value lasts until the next one");
        assert_eq!(bars(&[], 99, 3, 8.0), "   ");
    }
}
