//! Why an application ends before its work is done.

use alloc::string::String;
use core::fmt;

use crate::cap::Fault;
use crate::channel::ChannelError;
use crate::market::MarketError;
use crate::pager::{Gone, PagerError};

/// What an application's `run` can fail with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The kernel refused an invocation.
    Kernel(Fault),
    /// A connection is broken.
    Channel(ChannelError),
    /// The market did not do what was asked.
    Market(MarketError),
    /// A lease could not be put to use.
    Pager(PagerError),
    /// Leased memory was taken away while it was needed.
    Gone,
    /// The network server did not let the virtual function through as long as there was time. The function is not touched any
    /// more; the next one may work.
    NoFunction,
    /// The application's own reason.
    Failed(String),
}

impl Error {
    /// The application's own reason.
    pub fn failed(reason: impl Into<String>) -> Error {
        Error::Failed(reason.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Kernel(fault) => {
                write!(out, "the kernel refused: {:?} (argument {}", fault.error, fault.argument)?;
                if fault.detail != 0 {
                    write!(out, ", detail {}", fault.detail)?;
                }
                out.write_str(")")
            }
            Error::Channel(error) => write!(out, "a connection is broken: {error:?}"),
            Error::Market(MarketError::Refused(refusal)) => write!(out, "the market refused: {refusal:?}"),
            Error::Market(MarketError::Channel(error)) => write!(out, "the market is gone: {error:?}"),
            Error::Market(MarketError::NoAnswer) => out.write_str("the market does not answer"),
            Error::Pager(error) => write!(out, "a lease is of no use: {error:?}"),
            Error::Gone => out.write_str("leased memory was taken away"),
            Error::NoFunction => out.write_str("the network server does not let the virtual function through"),
            Error::Failed(reason) => out.write_str(reason),
        }
    }
}

impl core::error::Error for Error {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::Kernel(fault)
    }
}

impl From<ChannelError> for Error {
    fn from(error: ChannelError) -> Error {
        Error::Channel(error)
    }
}

impl From<MarketError> for Error {
    fn from(error: MarketError) -> Error {
        Error::Market(error)
    }
}

impl From<PagerError> for Error {
    fn from(error: PagerError) -> Error {
        Error::Pager(error)
    }
}

impl From<Gone> for Error {
    fn from(_: Gone) -> Error {
        Error::Gone
    }
}
