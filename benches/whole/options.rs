//! The command line: scenarios, numbers of connections, and who is measured.

use std::path::PathBuf;

use crate::engine::{Kind, Protocol};
use crate::nchan::Nchan;

/// Descriptors that a process needs besides one for each connection.
const SPARE: u64 = 100;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Fanout,
    Burst,
    Instructions,
    Saturation,
    Users,
    Idle,
    Connects,
    Heartbeat,
    Storm,
}

impl Scenario {
    const ALL: [(&'static str, Self); 9] = [
        ("fanout", Self::Fanout),
        ("burst", Self::Burst),
        ("instructions", Self::Instructions),
        ("saturation", Self::Saturation),
        ("users", Self::Users),
        ("idle", Self::Idle),
        ("connects", Self::Connects),
        ("heartbeat", Self::Heartbeat),
        ("storm", Self::Storm),
    ];

    /// Numbers of connections that the bars are stated for.
    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Fanout => &[1000, 5000, 15_000],
            Self::Burst | Self::Instructions | Self::Saturation | Self::Connects => &[1000],
            Self::Users | Self::Storm => &[5000],
            Self::Idle => &[10_000, 19_000],
            Self::Heartbeat => &[19_500],
        }
    }

    /// Who is measured besides the floor, when nobody is named.
    fn kinds(self) -> &'static [Kind] {
        const PLAIN: Kind = Kind::Sidecar(Protocol::Plain);
        const TLS: Kind = Kind::Sidecar(Protocol::Tls);
        const H2: Kind = Kind::Sidecar(Protocol::H2);
        const NCHAN: Kind = Kind::Nchan(Protocol::Plain);
        match self {
            Self::Fanout | Self::Burst => &[PLAIN, TLS, H2, NCHAN],
            Self::Instructions => &[PLAIN, TLS, Kind::Sidecar(Protocol::H2c)],
            Self::Saturation | Self::Users | Self::Storm | Self::Heartbeat => &[PLAIN, NCHAN],
            Self::Connects => &[PLAIN, TLS, NCHAN, Kind::Nchan(Protocol::Tls)],
            Self::Idle => &[PLAIN, TLS, H2, NCHAN, Kind::Nchan(Protocol::Tls), Kind::Nchan(Protocol::H2)],
        }
    }
}

/// What is wanted.
pub struct Options {
    pub scenarios: Vec<Scenario>,
    sizes: Vec<usize>,
    kinds: Vec<Kind>,
    /// Of the order in which those who are measured take their turns.
    pub seed: u64,
    /// How often everybody takes a turn; each scenario has a number of its own.
    pub rounds: Option<usize>,
    /// How long something that goes on is measured.
    pub seconds: Option<u64>,
    /// Where profiles stay.
    pub keep: Option<PathBuf>,
}

impl Options {
    /// Reads the command line; says what is wrong with it.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            scenarios: Vec::new(),
            sizes: Vec::new(),
            kinds: Vec::new(),
            seed: fastrand::u64(..1_000_000),
            rounds: None,
            seconds: None,
            keep: None,
        };
        // `cargo bench` adds `--bench`.
        for word in arguments.iter().filter(|word| !word.starts_with("--")) {
            options.take(word).ok_or_else(|| format!("what is {word:?}? see benches/whole/main.rs"))?;
        }
        if options.scenarios.is_empty() {
            options.scenarios = Scenario::ALL.map(|(_, scenario)| scenario).to_vec();
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> Option<()> {
        if let Some((name, value)) = word.split_once('=') {
            match name {
                "seed" => self.seed = value.parse().ok()?,
                "rounds" => self.rounds = Some(value.parse().ok().filter(|rounds| *rounds > 0)?),
                "seconds" => self.seconds = Some(value.parse().ok().filter(|seconds| *seconds > 0)?),
                "keep" => self.keep = Some(value.into()),
                _ => return None,
            }
        } else if let Ok(size) = word.parse() {
            self.sizes.push(size);
        } else if let Some(kind) = Kind::named(word) {
            self.kinds.push(kind);
        } else {
            self.scenarios.push(Scenario::ALL.iter().find(|(name, _)| *name == word)?.1);
        }
        Some(())
    }

    /// Numbers of connections for a scenario, as far as a process may hold them.
    pub fn sizes(&self, scenario: Scenario, descriptors: u64) -> Vec<usize> {
        let wanted = if self.sizes.is_empty() { scenario.sizes() } else { &self.sizes };
        let (fit, over): (Vec<usize>, Vec<usize>) =
            wanted.iter().partition(|size| **size > 0 && **size as u64 + SPARE <= descriptors);
        if !over.is_empty() {
            println!("\nNOT MEASURED: {over:?} connections; a process may have {descriptors} descriptors here.");
        }
        fit
    }

    /// Who is measured besides the floor. Without nchan on this machine, not nchan.
    pub fn kinds(&self, scenario: Scenario) -> Vec<Kind> {
        let wanted = if self.kinds.is_empty() { scenario.kinds() } else { &self.kinds };
        let here = |kind: &Kind| !matches!(kind, Kind::Nchan(_)) || Nchan::is_here();
        wanted.iter().copied().filter(here).collect()
    }
}
