//! What can be done to a run: the same words in `[[event]]`, in `--event` and behind the display's keys.
//!
//! `shock:APP[:FACTOR[:DURATION]]`, `value+:APP`, `value-:APP`, `value:APP:FACTOR`, `kill:APP`, `start:APP`,
//! `topup:APP:CREDITS`, `revoke-storage:APP`, `stop`, `crash`, `crash-nic`, `crash-storage`, `fail-storage`.

use super::units;
use proto::host::Command;

/// One as a fixed-point factor.
pub const ONE_PPM: u64 = 1_000_000;
/// By how much `value+` raises and `value-` lowers a valuation.
const STEP_PPM: u64 = 1_500_000;
/// A shock unless it says otherwise.
const SHOCK_PPM: u64 = 4 * ONE_PPM;
const SHOCK_MS: u64 = 5_000;
/// Larger factors are typing mistakes.
const MAX_PPM: u64 = 1_000_000 * ONE_PPM;

/// What an event does, applications by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Multiplies the application's valuation for a while.
    Shock {
        /// Application.
        app: u16,
        /// Factor in millionths.
        ppm: u64,
        /// Duration.
        for_ms: u64,
    },
    /// Raises it by half.
    Raise(u16),
    /// Undoes one raise.
    Lower(u16),
    /// Sets it to a multiple, in millionths, of the scenario's.
    Set(u16, u64),
    /// Kills the application.
    Kill(u16),
    /// Starts it.
    Start(u16),
    /// Adds 1e-15 credits to its balance.
    TopUp(u16, i128),
    /// Takes its namespace after a notice, and gives it another one.
    RevokeStorage(u16),
    /// Ends the run in good order.
    Stop,
    /// Makes the market server panic.
    Crash,
    /// Makes the network server panic.
    CrashNic,
    /// Makes the storage server panic.
    CrashStorage,
    /// Makes it switch its controller off before.
    FailStorage,
}

impl Action {
    /// Reads one.
    ///
    /// # Errors
    /// The reason, naming what there is.
    pub fn parse(text: &str, names: &[&str]) -> Result<Action, String> {
        let mut parts = text.trim().split(':').map(str::trim);
        let what = parts.next().unwrap_or_default();
        let alone = [
            ("stop", Action::Stop),
            ("crash", Action::Crash),
            ("crash-nic", Action::CrashNic),
            ("crash-storage", Action::CrashStorage),
            ("fail-storage", Action::FailStorage),
        ]
        .into_iter()
        .find(|(name, _)| *name == what);
        if let Some((name, action)) = alone {
            return if parts.next().is_none() { Ok(action) } else { Err(format!("`{name}` takes nothing")) };
        }
        let about_one = ["shock", "value+", "value-", "value", "kill", "start", "topup", "revoke-storage"];
        if !about_one.contains(&what) {
            return Err(format!(
                "unknown event `{what}`; known are: shock:APP[:FACTOR[:DURATION]], value+:APP, value-:APP, \
                 value:APP:FACTOR, kill:APP, start:APP, topup:APP:CREDITS, revoke-storage:APP, stop, \
                 crash, crash-nic, crash-storage, fail-storage"
            ));
        }
        let name = parts.next().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("say which application: {what}:APP"))?;
        let app = names.iter().position(|known| *known == name);
        let app = app.ok_or_else(|| format!("unknown application `{name}`; there are: {}", names.join(", ")))? as u16;
        let action = match what {
            "shock" => Action::Shock {
                app,
                ppm: parts.next().map_or(Ok(SHOCK_PPM), factor)?,
                for_ms: parts.next().map_or(Ok(SHOCK_MS), units::milliseconds)?,
            },
            "value+" => Action::Raise(app),
            "value-" => Action::Lower(app),
            "value" => Action::Set(app, factor(parts.next().ok_or("say the factor: value:APP:FACTOR")?)?),
            "kill" => Action::Kill(app),
            "start" => Action::Start(app),
            "revoke-storage" => Action::RevokeStorage(app),
            _ => {
                let amount = units::credits(parts.next().ok_or("say the amount: topup:APP:CREDITS")?)?;
                if amount.0 <= 0 {
                    return Err("the amount must be above 0".into());
                }
                Action::TopUp(app, amount.0)
            }
        };
        match parts.next() {
            None => Ok(action),
            Some(rest) => Err(format!("`{rest}` is too much in `{text}`")),
        }
    }

    /// What it does, in words. `names` and `ppm` are the applications' names and, after [`Action::command`], factors.
    pub fn describe(&self, names: &[&str], ppm: &[u64]) -> String {
        let name = |app: &u16| names.get(usize::from(*app)).copied().unwrap_or("?");
        let times = |ppm: u64| ppm as f64 / ONE_PPM as f64;
        match self {
            Action::Shock { app, ppm, for_ms } => {
                format!("demand shock: {} x {} for {for_ms} ms", name(app), times(*ppm))
            }
            Action::Raise(app) | Action::Lower(app) | Action::Set(app, _) => {
                let factor = ppm.get(usize::from(*app)).copied().unwrap_or(ONE_PPM);
                format!("the valuation of {} is now x {:.3} of the scenario's", name(app), times(factor))
            }
            Action::Kill(app) => format!("kill {}", name(app)),
            Action::Start(app) => format!("start {}", name(app)),
            Action::TopUp(app, amount) => {
                format!("{} gets {} credits", name(app), market_mechanism::Credits(*amount))
            }
            Action::RevokeStorage(app) => format!("take the namespace of {}, and give it another one", name(app)),
            Action::Stop => "end the run".into(),
            Action::Crash => "crash the market".into(),
            Action::CrashNic => "crash the network server".into(),
            Action::CrashStorage => "crash the storage server".into(),
            Action::FailStorage => "switch the storage controller off and crash its server".into(),
        }
    }

    /// The command for the market server. `ppm` holds every application's present factor and is kept up to date.
    pub fn command(&self, ppm: &mut [u64]) -> Command {
        let mut valuation = |app: u16, change: &dyn Fn(u64) -> u64| {
            let slot = &mut ppm[usize::from(app)];
            *slot = change(*slot).clamp(1, MAX_PPM);
            Command::Valuation { app, ppm: *slot }
        };
        match *self {
            Action::Shock { app, ppm, for_ms } => Command::Shock { app, ppm, for_ms },
            Action::Raise(app) => valuation(app, &|old| scale(old, STEP_PPM, ONE_PPM)),
            Action::Lower(app) => valuation(app, &|old| scale(old, ONE_PPM, STEP_PPM)),
            Action::Set(app, new) => valuation(app, &|_| new),
            Action::Kill(app) => Command::Kill { app },
            Action::Start(app) => Command::Start { app },
            Action::TopUp(app, amount) => Command::TopUp { app, amount },
            Action::RevokeStorage(app) => Command::RevokeStorage { app },
            Action::Stop => Command::Stop,
            Action::Crash => Command::Crash,
            Action::CrashNic => Command::CrashNic,
            Action::CrashStorage => Command::CrashStorage,
            Action::FailStorage => Command::FailStorage,
        }
    }
}

/// `value * times / by`, to the nearest.
fn scale(value: u64, times: u64, by: u64) -> u64 {
    let scaled = (u128::from(value) * u128::from(times) + u128::from(by) / 2) / u128::from(by);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// A factor such as `2.5` in millionths. (Credits have the digits that this needs.)
fn factor(text: &str) -> Result<u64, String> {
    let amount = units::credits(text).map_err(|_| format!("`{text}` is no factor"))?;
    let ppm = amount.0 / 1_000_000_000;
    u64::try_from(ppm)
        .ok()
        .filter(|ppm| (1..=MAX_PPM).contains(ppm))
        .ok_or_else(|| format!("the factor {text} is not between 0.000001 and 1,000,000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read() {
        let names = ["digest", "cache"];
        let parse = |text| Action::parse(text, &names);
        assert_eq!(parse("shock:cache"), Ok(Action::Shock { app: 1, ppm: 4_000_000, for_ms: 5000 }));
        assert_eq!(parse("shock:digest:2.5:3 s"), Ok(Action::Shock { app: 0, ppm: 2_500_000, for_ms: 3000 }));
        assert_eq!(parse("value:cache:0.5"), Ok(Action::Set(1, 500_000)));
        assert_eq!(parse("topup:cache:1"), Ok(Action::TopUp(1, 1_000_000_000_000_000)));
        assert_eq!(parse("revoke-storage:digest"), Ok(Action::RevokeStorage(0)));
        assert_eq!(parse("stop"), Ok(Action::Stop));
        assert_eq!(parse("crash"), Ok(Action::Crash));
        assert_eq!(parse("crash-nic"), Ok(Action::CrashNic));
        for (wrong, part) in [
            ("kill", "which application"),
            ("kill:me", "digest, cache"),
            ("explode:cache", "known are"),
            ("value:cache", "factor"),
            ("value:cache:0", "factor"),
            ("value:cache:-1", "factor"),
            ("topup:cache:0", "above 0"),
            ("kill:cache:now", "too much"),
            ("shock:cache:2:soon", "duration"),
            ("stop:now", "nothing"),
        ] {
            let reason = parse(wrong).unwrap_err();
            assert!(reason.contains(part), "{wrong}: {reason}");
        }
    }

    #[test]
    fn raising_and_lowering_compound_and_cancel() {
        let mut ppm = [ONE_PPM; 2];
        Action::Raise(1).command(&mut ppm);
        assert_eq!(Action::Raise(1).command(&mut ppm), Command::Valuation { app: 1, ppm: 2_250_000 });
        Action::Lower(1).command(&mut ppm);
        assert_eq!(Action::Lower(1).command(&mut ppm), Command::Valuation { app: 1, ppm: ONE_PPM });
        assert_eq!(ppm[0], ONE_PPM);
    }

    #[test]
    fn events_are_told_in_words() {
        let names = ["digest", "cache"];
        let mut ppm = [ONE_PPM; 2];
        let mut told = |text: &str| {
            let action = Action::parse(text, &names).unwrap();
            action.command(&mut ppm);
            action.describe(&names, &ppm)
        };
        assert_eq!(told("value+:cache"), "the valuation of cache is now x 1.500 of the scenario's");
        assert_eq!(told("value+:cache"), "the valuation of cache is now x 2.250 of the scenario's");
        assert_eq!(told("value-:digest"), "the valuation of digest is now x 0.667 of the scenario's");
        assert_eq!(told("value:digest:3"), "the valuation of digest is now x 3.000 of the scenario's");
        assert_eq!(told("shock:cache:2.5:3 s"), "demand shock: cache x 2.5 for 3000 ms");
        assert_eq!(told("start:cache"), "start cache");
        assert_eq!(told("kill:digest"), "kill digest");
        assert_eq!(told("topup:digest:0.5"), "digest gets 0.5 credits");
        assert_eq!(told("revoke-storage:cache"), "take the namespace of cache, and give it another one");
        assert_eq!(told("stop"), "end the run");
        assert_eq!(told("crash"), "crash the market");
    }
}
