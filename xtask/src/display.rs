//! The live display: prices, holdings, balances, progress and CPU shares of a running machine, and keys that change it.
//!
//! The terminal is given back in every case: on close, on drop and on panic.

use crate::run_state::{AppState, GoodState, Phase, RunState, to_f64};
use crate::scenario::Scenario;
use crate::scenario::events::{Action, ONE_PPM};
use crate::view::{View, Wish, ending};
use anyhow::{Context, Result};
use proto::host::{End, Record};
use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Between two pictures.
const REDRAW: Duration = Duration::from_millis(100);
/// Log lines kept.
const LOG_LINES: usize = 200;
/// The shock behind the key `s`.
const SHOCK_PPM: u64 = 4 * ONE_PPM;
const SHOCK_MS: u64 = 5_000;

/// The display.
pub struct Display {
    terminal: Option<DefaultTerminal>,
    title: String,
    selected: usize,
    /// What `h` starts: the applications that don't start by themselves.
    hostile: Vec<u16>,
    log: VecDeque<String>,
    drawn: Option<Instant>,
}

impl Display {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it can't be put into raw mode.
    pub fn open(scenario: &Scenario) -> Result<Display> {
        let hostile = scenario.plan.apps.iter().zip(0u16..).filter(|(app, _)| !app.starts).map(|(_, number)| number);
        let mut terminal = ratatui::try_init().context("cannot use the terminal; --plain does without")?;
        // Not every terminal gives an empty alternate screen.
        let _ = terminal.clear();
        Ok(Display {
            terminal: Some(terminal),
            title: scenario.title.clone(),
            selected: 0,
            hostile: hostile.collect(),
            log: VecDeque::new(),
            drawn: None,
        })
    }

    fn push(&mut self, line: String) {
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    fn key(&mut self, code: KeyCode, state: &RunState) -> Option<Wish> {
        let apps = state.apps.len();
        let app = self.selected as u16;
        let action = match code {
            KeyCode::Up => {
                self.selected = (self.selected + apps - 1) % apps;
                return None;
            }
            KeyCode::Down | KeyCode::Tab => {
                self.selected = (self.selected + 1) % apps;
                return None;
            }
            KeyCode::Char(digit @ '1'..='9') => {
                let wanted = digit as usize - '1' as usize;
                self.selected = wanted.min(apps - 1);
                return None;
            }
            KeyCode::Char('+' | '=') => Action::Raise(app),
            KeyCode::Char('-') => Action::Lower(app),
            KeyCode::Char('s') => Action::Shock { app, ppm: SHOCK_PPM, for_ms: SHOCK_MS },
            KeyCode::Char('k') => Action::Kill(app),
            KeyCode::Char('h') => {
                let waiting = self.hostile.iter().copied();
                let next = waiting.filter(|app| state.apps[usize::from(*app)].phase == Phase::Waiting).min();
                match next {
                    Some(app) => {
                        self.selected = self.victim_of(app, state);
                        Action::Start(app)
                    }
                    None => {
                        self.push("there is no application left that could be started".into());
                        return None;
                    }
                }
            }
            KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::Quit),
            _ => return None,
        };
        Some(Wish::Act(action))
    }

    /// An application that runs on the same core, whose share is worth watching; else the present selection.
    fn victim_of(&self, app: u16, state: &RunState) -> usize {
        let core = state.apps[usize::from(app)].core;
        let beside = |victim: &AppState| victim.core == core && victim.phase == Phase::Running;
        state.apps.iter().position(beside).unwrap_or(self.selected)
    }

    fn draw(&mut self, state: &RunState) {
        let Some(mut terminal) = self.terminal.take() else { return };
        // A terminal that can't be drawn to goes on without a picture; the run matters more.
        let _ = terminal.draw(|frame| self.picture(frame, state));
        self.terminal = Some(terminal);
        self.drawn = Some(Instant::now());
    }

    fn picture(&self, frame: &mut Frame, state: &RunState) {
        let goods = state.goods.len() as u16 + 3;
        let apps = state.apps.len() as u16 + 3;
        let rows = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(goods),
            Constraint::Length(apps),
            Constraint::Length(4),
            Constraint::Min(3),
            Constraint::Length(1),
        ]);
        let [head, price_area, app_area, share_area, log_area, foot] = rows.areas(frame.area());
        let clock =
            format!(" nonkernel  {}  {:.1} s virtual, {} rounds ", self.title, state.now as f64 / 1e6, state.rounds);
        frame.render_widget(Paragraph::new(clock.bold().reversed()), head);
        self.prices(frame, price_area, state);
        self.apps(frame, app_area, state);
        self.share(frame, share_area, state);
        let height = log_area.height.saturating_sub(2) as usize;
        let last = self.log.iter().skip(self.log.len().saturating_sub(height));
        let lines: Vec<Line> = last.map(|line| Line::raw(line.as_str())).collect();
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("console")), log_area);
        let keys = " up/down or 1-9: application   + -: valuation   s: demand shock   h: start a hostile neighbour   \
                    k: kill   q: quit ";
        frame.render_widget(Paragraph::new(keys.reversed()), foot);
    }

    fn prices(&self, frame: &mut Frame, area: Rect, state: &RunState) {
        let [left, right] = Layout::horizontal([Constraint::Length(72), Constraint::Min(10)]).areas(area);
        let rows = state.goods.iter().map(|good| {
            let last = good.history.last();
            let price = |price: Option<market_mechanism::Price>| match price {
                Some(price) if price.0 != u64::MAX => format!("{:.6}", good.per_hour_f64(price)),
                Some(_) => "sold out".into(),
                None => "-".into(),
            };
            Row::new([
                Cell::from(good.name.clone()),
                Cell::from(price(last.map(|sample| sample.clearing))),
                Cell::from(price(last.map(|sample| sample.ask))),
                Cell::from(format!("{}/{}", last.map_or(0, |sample| sample.sold), good.supply)),
                Cell::from(good.price_unit()),
            ])
        });
        let widths = [9, 12, 12, 14, 17].map(Constraint::Length);
        let header = Row::new(["good", "clearing", "ask", "sold", "unit"]).bold();
        let table = Table::new(rows, widths).header(header).block(Block::bordered().title("prices"));
        frame.render_widget(table, left);
        let block = Block::bordered().title("clearing prices");
        let inner = block.inner(right);
        frame.render_widget(block, right);
        for (good, row) in state.goods.iter().zip(0u16..) {
            if row + 1 < inner.height {
                let line = Rect { y: inner.y + 1 + row, height: 1, ..inner };
                let data = tail(good.history.iter().map(|sample| sample.clearing.0), line.width);
                frame.render_widget(Sparkline::default().data(&data).fg(Color::Cyan), line);
            }
        }
    }

    fn apps(&self, frame: &mut Frame, area: Rect, state: &RunState) {
        // A column that nobody has anything in is left out.
        let shows_bandwidth = state.goods.iter().any(GoodState::is_bandwidth);
        let shows_operations = state.goods.iter().any(GoodState::is_iops);
        let rows = state.apps.iter().enumerate().map(|(number, app)| {
            let style = match (&app.phase, number == self.selected) {
                (_, true) => Style::new().add_modifier(Modifier::REVERSED),
                (Phase::Waiting, _) => Style::new().fg(Color::DarkGray),
                (Phase::Ended(End::Exit { status: 0 }), _) => Style::new().fg(Color::Green),
                (Phase::Ended(_), _) => Style::new().fg(Color::Red),
                _ => Style::new(),
            };
            let cpu = state.cpu(app);
            let bandwidth = state.bandwidth(app).map_or("   -".into(), |units| format!("{units:>4}"));
            let mut cells = vec![
                Cell::from(format!("{} {}", number + 1, app.name)),
                Cell::from(format!("{:>6}", app.holdings.first().copied().unwrap_or(0))),
                Cell::from(format!("{cpu:>3} of cpu.{}", app.core)),
                Cell::from(format!("{:>5.1} %", 100.0 * app.share(state.tsc_hz).unwrap_or(0.0))),
                Cell::from(app.hit_ratio().map_or(String::new(), |ratio| format!("{:>5.1} %", 100.0 * ratio))),
                Cell::from(format!("{:.9}", to_f64(app.balance))),
                Cell::from(format!("{:.9}", to_f64(app.paid))),
                Cell::from(progress(app)),
            ];
            if shows_operations {
                let operations = state.operations(app).map_or("      -".into(), |per_s| format!("{per_s:>7}"));
                cells.insert(4, Cell::from(operations));
            }
            if shows_bandwidth {
                cells.insert(4, Cell::from(bandwidth));
            }
            Row::new(cells).style(style)
        });
        let (mut widths, mut header) = (
            vec![18, 7, 13, 8, 8, 16, 16, 40],
            vec!["application", "pages", "CPU", "CPU had", "hits", "balance", "paid", "progress"],
        );
        if shows_operations {
            widths.insert(4, 8);
            header.insert(4, "  ops/s");
        }
        if shows_bandwidth {
            widths.insert(4, 5);
            header.insert(4, "Mb/s");
        }
        let (widths, header) = (widths.into_iter().map(Constraint::Length), Row::new(header).bold());
        let table = Table::new(rows, widths).header(header).block(Block::bordered().title("applications"));
        frame.render_widget(table, area);
    }

    /// The selected application's share of its core over time: flat, whatever its neighbours do. The largest share that
    /// is shown fills the height, so that a small one can be seen too.
    fn share(&self, frame: &mut Frame, area: Rect, state: &RunState) {
        let Some(app) = state.apps.get(self.selected) else { return };
        let shares = app.shares(state.tsc_hz);
        let data = tail(shares.iter().map(|(_, share)| (share * 1000.0) as u64), area.width.saturating_sub(2));
        let top = data.iter().copied().max().unwrap_or(0).max(1);
        let height = format!("{}.{} %", top / 10, top % 10);
        let title = format!("CPU time that {} has had, share of core {} (full height: {height})", app.name, app.core);
        let line = Sparkline::default().data(&data).max(top).fg(Color::Yellow).block(Block::bordered().title(title));
        frame.render_widget(line, area);
    }
}

/// The last `width` values.
fn tail(values: impl DoubleEndedIterator<Item = u64>, width: u16) -> Vec<u64> {
    let mut last: Vec<u64> = values.rev().take(usize::from(width)).collect();
    last.reverse();
    last
}

fn progress(app: &AppState) -> Line<'static> {
    let bar = |done: u64, total: u64| {
        let filled = (u128::from(done) * 20 / u128::from(total.max(1))).min(20) as usize;
        format!("{}{} {:>3} %", "█".repeat(filled), "░".repeat(20 - filled), done * 100 / total.max(1))
    };
    match &app.phase {
        Phase::Waiting => Line::raw("not started"),
        Phase::Ended(end) => Line::from(Span::raw(ending(end))),
        Phase::Running if app.total > 0 => Line::raw(bar(app.done, app.total)),
        Phase::Running => Line::raw(format!("{} done", app.done)),
    }
}

impl View for Display {
    fn note(&mut self, text: &str) {
        self.push(text.to_string());
    }

    fn line(&mut self, line: &str) {
        self.push(line.to_string());
    }

    fn record(&mut self, state: &RunState, record: &Record) {
        match record {
            Record::Ended { t, app, end, .. } => {
                self.push(format!("[{:.3} s] {}: {}", *t as f64 / 1e6, state.sender(*app), ending(end)));
            }
            Record::Started { t, app, .. } => {
                self.push(format!("[{:.3} s] {} started", *t as f64 / 1e6, state.sender(*app)));
            }
            _ => {}
        }
    }

    fn tick(&mut self, state: &RunState) -> Vec<Wish> {
        let mut wishes = Vec::new();
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            // In raw mode Ctrl-C is a key.
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            let wish = if interrupt { Some(Wish::Interrupt) } else { self.key(key.code, state) };
            wishes.extend(wish);
        }
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
            self.draw(state);
        }
        wishes
    }

    fn close(&mut self) {
        if self.terminal.take().is_some() {
            ratatui::restore();
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{self, Overrides};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::path::Path;

    const PLAN: &str = r#"
        [machine]
        cores = 1
        [[app]]
        name = "gold"
        budget = 1
        nic = true
        base_bandwidth = 10
        storage = "1 MiB"
        base_iops = 4
        base_pages = 256
    "#;
    const WITHOUT: &str = "[machine]\ncores = 1\n[[app]]\nname = \"gold\"\nbudget = 1\n";

    fn state(plan: &str) -> RunState {
        RunState::new(&scenario::parse(Path::new("x.toml"), plan, &Overrides::default(), &["gold".into()]).unwrap())
    }

    /// The head and the first row of the table of applications.
    fn head_and_row(state: &RunState) -> [String; 2] {
        let display = Display {
            terminal: None,
            title: String::new(),
            selected: 0,
            hostile: Vec::new(),
            log: VecDeque::new(),
            drawn: None,
        };
        let mut terminal = Terminal::new(TestBackend::new(160, 4)).unwrap();
        terminal.draw(|frame| display.apps(frame, frame.area(), state)).unwrap();
        let buffer = terminal.backend().buffer();
        [1, 2].map(|y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect())
    }

    /// What stands in the row below this head, up to the next head.
    fn below<'a>([head, row]: &'a [String; 2], name: &str, next: &str) -> &'a str {
        let at = |name: &str| head.find(&format!(" {name} ")).unwrap_or_else(|| panic!("no `{name}` in {head}"));
        row[at(name)..at(next)].trim()
    }

    #[test]
    fn bandwidth_operations_and_hits_stand_under_their_heads() {
        let mut state = state(PLAN);
        for (good, units) in state.goods.iter().zip(&mut state.apps[0].holdings) {
            *units = match () {
                () if good.is_bandwidth() => 7,
                () if good.is_iops() => 3,
                () => 0,
            };
        }
        state.apps[0].hits = vec![(0, 10, 100), (100_000, 55, 160)].into();
        let table = head_and_row(&state);
        assert_eq!(below(&table, "Mb/s", "ops/s"), "17");
        assert_eq!(below(&table, "ops/s", "hits"), "700");
        assert_eq!(below(&table, "hits", "balance"), "75.0 %");
        assert_eq!(below(&table, "balance", "paid"), "1.000000000");
    }

    #[test]
    fn without_devices_and_a_cache_nothing_is_shown_of_them() {
        let table = head_and_row(&state(WITHOUT));
        assert!(["Mb/s", "ops/s"].iter().all(|name| !table[0].contains(name)), "{}", table[0]);
        assert_eq!(below(&table, "hits", "balance"), "");
        assert_eq!(below(&table, "balance", "paid"), "1.000000000");
    }
}
