//! Reads the configuration and the certificates again, for a signal, the admin listener and the passing of time.
//!
//! What may change while the process runs is [`crate::config::reload`]'s business; here it is put in force, all of it or nothing,
//! and told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::app::State;
use crate::config::error::Report;
use crate::config::load::{self, Loaded, Sources};
use crate::config::show::Effective;
use crate::config::{self, reload};
use crate::server::tls::{self, LiveConfig};
use crate::telemetry::log::Log;

/// Reads again what the process was started with.
#[derive(Debug)]
pub struct Reloader {
    /// `None`: the configuration is in no file.
    sources: Option<Sources>,
    in_force: Mutex<Loaded>,
    state: Arc<State>,
    tls: Option<Arc<LiveConfig>>,
    log: Arc<Log>,
}

/// What reading the configuration again has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Keys whose new values are in force.
    pub applied: Vec<String>,
    /// Keys whose new values wait for a restart.
    pub waiting: Vec<String>,
    /// Why certificate files that have changed are not shown; those from before are.
    pub certificates_refused: Option<String>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// There is nothing to be read again.
    #[error("the configuration does not come from files")]
    NotFromFiles,
    /// It is faulty.
    #[error("{0}")]
    Faulty(Report),
}

impl Reloader {
    /// Of a process that was started with `loaded`, from `sources`.
    pub fn new(
        sources: Option<Sources>,
        loaded: Loaded,
        state: Arc<State>,
        tls: Option<Arc<LiveConfig>>,
        log: Arc<Log>,
    ) -> Self {
        Self { sources, in_force: Mutex::new(loaded), state, tls, log }
    }

    /// Reads the configuration again, secrets with it: after an error all of it is as it was. Certificates, which are looked at by
    /// themselves every few seconds, are looked at in any case.
    pub fn reload(&self) -> Result<Applied, ReloadError> {
        let mut outcome = self.reload_configuration();
        let certificates_refused = self.reload_certificates();
        if let Ok(applied) = &mut outcome {
            applied.certificates_refused = certificates_refused;
        }
        match &outcome {
            Ok(Applied { applied, waiting, .. }) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.state.metrics.reload.applied(now.as_secs());
                tracing::info!(applied = applied.join(", "), "Configuration was read again");
                if !waiting.is_empty() {
                    tracing::warn!(keys = waiting.join(", "), "Changed keys wait for a restart");
                }
            }
            Err(error) => {
                self.state.metrics.reload.refused();
                tracing::error!(%error, "Configuration was not changed");
            }
        }
        outcome
    }

    fn reload_configuration(&self) -> Result<Applied, ReloadError> {
        let sources = self.sources.as_ref().ok_or(ReloadError::NotFromFiles)?;
        // One at a time, from reading to the end: who reads last is in force last.
        let mut in_force = self.in_force();
        let read = load::load(sources).map_err(ReloadError::Faulty)?;
        for warning in &read.warnings {
            tracing::warn!(%warning, "Doubtful configuration");
        }
        let reload::Reloaded { loaded, applied, waiting } = reload::reload(&in_force, read);
        if loaded.config.is_secret() {
            crate::dumps::keep_private();
        }
        // First, so that nothing of the new secrets is shown.
        self.log.set_redaction(loaded.config.redaction());
        if let Err(error) = self.log.set_level(&loaded.config.log.level) {
            tracing::error!(%error, "The level of the log stays");
        }
        self.state.apply(loaded.config.clone());
        *in_force = loaded;
        Ok(Applied { applied, waiting, certificates_refused: None })
    }

    /// Reads certificate files again if they have changed: new connections get what they hold now. What cannot be used changes
    /// nothing, and why is given.
    pub fn reload_certificates(&self) -> Option<String> {
        let metrics = &self.state.metrics.tls;
        match self.tls.as_deref().map(LiveConfig::reload) {
            None | Some(Ok(tls::Reloaded::Unchanged)) => None,
            Some(Ok(tls::Reloaded::Applied)) => {
                metrics.applied.add(1);
                metrics.not_after.set(self.tls.as_deref().map_or(0, LiveConfig::not_after));
                tracing::info!("Certificates were read again");
                None
            }
            Some(Err(error)) => {
                metrics.refused.add(1);
                tracing::error!(%error, "Certificates have changed and cannot be used; those from before stay");
                Some(error.to_string())
            }
        }
    }

    /// Puts another level of the log in force, until the configuration is read again. `false` where it is none.
    pub fn set_log_level(&self, level: &str) -> bool {
        if !config::Log::is_level(level) {
            return false;
        }
        // Told by whichever of the two filters lets it through: who turns the log down leaves a trace as well.
        let told = tracing::enabled!(tracing::Level::INFO);
        if told {
            tracing::info!(level, "Log level set");
        }
        let set = self.log.set_level(level).is_ok();
        if set && !told {
            tracing::info!(level, "Log level set");
        }
        set
    }

    /// Every value in force with its origin, secrets left out.
    pub fn effective(&self) -> Vec<Effective> {
        self.in_force().effective.clone()
    }

    fn in_force(&self) -> MutexGuard<'_, Loaded> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
