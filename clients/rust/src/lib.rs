//! Publishes events and progress that `sidestream` delivers to browsers, through NATS JetStream.
//!
//! The application brings its JetStream context; nothing here connects. What goes over the wire is the same as in the
//! TypeScript and Python libraries beside this one.
//!
//! ```no_run
//! # async fn import() -> Result<(), Box<dyn std::error::Error>> {
//! let jetstream = async_nats::jetstream::new(async_nats::connect("nats://127.0.0.1:4222").await?);
//! let publisher = sidestream_publish::Publisher::new(jetstream);
//! publisher.notify("alice", "note", &"hello", None).await?;
//! let progress = publisher.progress("alice", "import-7")?;
//! progress.update(50.0, "half of it");
//! progress.complete().await?;
//! # Ok(())
//! # }
//! ```

mod error;
mod progress;
mod publisher;
mod subject;

pub use error::Error;
pub use progress::Progress;
pub use publisher::Publisher;
pub use subject::UserEncoding;
