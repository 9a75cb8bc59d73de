//! What README.md shows, to be run: `NATS_URL=nats://127.0.0.1:4222 cargo run --example import`.

use serde_json::json;
use sidestream_publish::Publisher;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nats = async_nats::connect(std::env::var("NATS_URL")?).await?;
    let publisher = Publisher::new(async_nats::jetstream::new(nats));
    publisher.notify("alice", "note", &json!({ "text": "the import begins" }), Some("note-1")).await?;
    let import = publisher.progress("alice", "import-7")?;
    let rows = import.within(async |progress| {
        for row in 1..=200 {
            progress.update(f64::from(row) / 2.0, &format!("row {row} of 200"));
        }
        Ok::<_, Box<dyn std::error::Error>>(200)
    });
    println!("{} rows", rows.await?);
    Ok(())
}
