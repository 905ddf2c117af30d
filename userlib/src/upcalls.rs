//! Upcalls of events, and what they must not interrupt.
//!
//! An application looks for events when it likes to; one that has asked for upcalls is interrupted by them, in the middle
//! of whatever it does. What the upcall shares with the rest of the application (the heap, the console, the connection to
//! the market) is therefore used only while a [`Masked`] lives: interrupts are off then, and an upcall that falls due
//! comes when it is dropped. In an application that has not asked interrupts are always off, and nothing changes.

/// As long as this lives, no upcall comes. It may be nested.
#[derive(Debug)]
pub struct Masked {
    /// Interrupts were on before.
    #[cfg(target_os = "none")]
    enabled: bool,
    /// It belongs to this Vcpu.
    _here: core::marker::PhantomData<*const ()>,
}

/// Keeps upcalls away until what this returns is dropped.
#[must_use = "upcalls are kept away only as long as this lives"]
#[inline]
pub fn mask() -> Masked {
    #[cfg(target_os = "none")]
    let enabled = crate::arch::interrupts_enabled();
    #[cfg(target_os = "none")]
    if enabled {
        crate::arch::disable_interrupts();
    }
    Masked {
        #[cfg(target_os = "none")]
        enabled,
        _here: core::marker::PhantomData,
    }
}

impl Masked {
    /// Whether upcalls come once this is dropped.
    #[inline]
    pub(crate) fn hides_upcalls(&self) -> bool {
        #[cfg(target_os = "none")]
        {
            self.enabled
        }
        #[cfg(not(target_os = "none"))]
        {
            false
        }
    }
}

#[cfg(target_os = "none")]
impl Drop for Masked {
    #[inline]
    fn drop(&mut self) {
        if self.enabled {
            crate::arch::enable_interrupts();
        }
    }
}
