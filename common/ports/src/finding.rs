//! What somebody who looked at a server, or at this machine, has to say of it.

/// One sentence about a part of an installation; never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it stands.
    pub verdict: Verdict,
    /// What was found; with what mends it unless all is well.
    pub sentence: String,
}

/// How a part of an installation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should.
    Good,
    /// It works, and may not for ever.
    Note,
    /// It does not work, or will lose something.
    Wrong,
}

impl Finding {
    /// All is well.
    pub fn good(sentence: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, sentence: sentence.into() }
    }

    /// It works, and may not for ever.
    pub fn note(sentence: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, sentence: sentence.into() }
    }

    /// It is to be mended.
    pub fn wrong(sentence: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, sentence: sentence.into() }
    }

    /// Of a clock of another machine: `theirs` was read between `before` and `after` of ours, all in Unix milliseconds.
    pub fn of_clock(whose: &str, theirs: u64, before: u64, after: u64) -> Self {
        const NOTED_MS: u64 = 500;
        const WRONG_MS: u64 = 5_000;
        let skew = if theirs < before { before - theirs } else { theirs.saturating_sub(after) };
        let which = if theirs < before { "behind" } else { "ahead of" };
        let apart = format!("the clock of {whose} is {:.1} s {which} this machine's", skew as f64 / 1e3);
        match skew {
            0..NOTED_MS => Self::good(format!("the clock of {whose} and this machine's agree")),
            NOTED_MS..WRONG_MS => Self::note(format!("{apart}; let both follow the same time server")),
            _ => Self::wrong(format!(
                "{apart}, so deadlines and retries come at wrong times; let both follow the same time server"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_from_the_time_in_which_it_was_read() {
        let of = |theirs| Finding::of_clock("x", theirs, 100_000, 100_300);
        assert_eq!([99_600, 100_000, 100_200, 100_700].map(|theirs| of(theirs).verdict), [Verdict::Good; 4]);
        assert_eq!(
            of(99_500).sentence,
            "the clock of x is 0.5 s behind this machine's; let both follow the same time server"
        );
        assert_eq!(of(102_300).verdict, Verdict::Note);
        assert!(of(105_300).sentence.starts_with("the clock of x is 5.0 s ahead of this machine's, so"));
        assert_eq!([0, 105_300].map(|theirs| of(theirs).verdict), [Verdict::Wrong; 2]);
    }
}
