//! Crash points: boundaries in the code at which a process may die, by name, so that a test can let it die exactly there.
//!
//! `TROUPE_CRASH_POINT=name` ends the process when it passes the point for the first time, `name:3` for the third. Only in
//! builds for tests (with debug assertions, or with the feature `crash-points`): in any other there is nothing, not even the
//! names.

/// The process dies here where a test says so: at once, with nothing cleaned up, as by `kill -9`.
#[cfg(any(debug_assertions, feature = "crash-points"))]
pub fn crash_point(name: &'static str) {
    if let Some(chosen) = armed::chosen()
        && chosen.name == name
    {
        chosen.pass();
    }
}

/// Nothing.
#[cfg(not(any(debug_assertions, feature = "crash-points")))]
#[inline(always)]
pub const fn crash_point(_: &'static str) {}

#[cfg(any(debug_assertions, feature = "crash-points"))]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    /// What the environment asks for.
    pub(super) struct Chosen {
        pub(super) name: String,
        left: AtomicU32,
    }

    pub(super) fn chosen() -> Option<&'static Chosen> {
        static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
        CHOSEN.get_or_init(|| std::env::var("TROUPE_CRASH_POINT").ok().map(|text| parse(&text))).as_ref()
    }

    fn parse(text: &str) -> Chosen {
        let (name, times) = text.split_once(':').unwrap_or((text, "1"));
        Chosen { name: name.to_owned(), left: AtomicU32::new(times.parse().unwrap_or(1)) }
    }

    impl Chosen {
        pub(super) fn pass(&self) {
            // Once it is at zero the process is gone, or another thread is about to end it.
            if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
                eprintln!("crash point {}", self.name);
                std::process::abort();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_may_be_passed_some_times_first() {
            let chosen = parse("service.step.after:3");
            assert_eq!((chosen.name.as_str(), chosen.left.load(Ordering::SeqCst)), ("service.step.after", 3));
            chosen.pass();
            assert_eq!(chosen.left.load(Ordering::SeqCst), 2);
            assert_eq!(parse("service.step.after").left.load(Ordering::SeqCst), 1);
        }
    }
}
