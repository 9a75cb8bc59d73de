//! `sidestream version`: what this binary is.

use super::exit::Exit;

/// Options of `version`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidestream version --json")]
pub struct Args {
    /// Prints one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Prints the version.
pub fn run(args: &Args) -> Exit {
    super::print(&format!("{}\n", text(args.json)))
}

fn text(json: bool) -> String {
    if json {
        return crate::admin::version().to_string();
    }
    concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_object_on_one_line() {
        let value: serde_json::Value = serde_json::from_str(&text(true)).expect("JSON");
        assert_eq!(value["name"], "sidestream");
        assert!(!text(true).contains('\n'));
    }
}
