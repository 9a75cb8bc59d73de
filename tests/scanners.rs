//! What two scanners that nobody here wrote say of our TLS (requirement R65): testssl.sh and sslyze find nothing above their
//! informational level but what stands in [`EXPECTED`], with its reason; and see what there is to be seen: TLS 1.2 and 1.3 with
//! AEAD and ECDHE only, and neither compression, renegotiation nor early data.
//!
//! Resumption is shown by the session's own tests: sslyze takes a ticket that is renewed, as ours are, for none.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use support::tls::{Certificate, Pem};
use support::{App, Config, Nats, Version};
use tokio::process::Command;

/// For all of them side by side.
const PATIENCE: Duration = Duration::from_secs(180);

/// The parts of testssl.sh, and for each one something that it says only when it has got there.
const PARTS: [(&[&str], &str); 4] = [
    // Protocols, forward secrecy, preferences.
    (&["-p", "-f", "-P"], "cipher_order"),
    // Kinds of cipher suites.
    (&["-s"], "cipherlist_STRONG"),
    // What the server shows.
    (&["-S"], "cert_commonName"),
    // Known vulnerabilities.
    (&["-U"], "RC4"),
];

/// Findings that say nothing of the server.
const EXPECTED: [(&str, &str); 4] = [
    ("cert_chain_of_trust", "the certificate is self-signed"),
    ("cert_revocation", "a self-signed certificate has nobody who could revoke it"),
    ("engine_problem", "the scanner's own openssl knows no GOST"),
    ("sessionresumption_ticket", "on a busy machine it finds out nothing; the session's own tests show resumption"),
];

async fn served() -> (Nats, App, Certificate) {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let certificate = Certificate::of(&Pem::current());
    // They leave connections open, and wait for their end.
    let server = format!("header_timeout = \"2s\"\n{}", certificate.table());
    let app = App::start(&Config::on(&nats).server(&server)).await;
    (nats, app, certificate)
}

async fn runs(mut command: Command) -> String {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("no end within {PATIENCE:?}: {command:?}"));
    let output = output.unwrap_or_else(|e| panic!("{command:?} does not start, run scripts/test: {e}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn read(report: &Path, said: &str) -> Value {
    let text = std::fs::read(report).unwrap_or_else(|e| panic!("no report: {e}: {said}"));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("not a report: {e}: {said}"))
}

async fn testssl(app: &App, dir: &Path, options: &[&str], reached: &str) {
    let report = dir.join(format!("testssl{}.json", options.concat()));
    let mut command = Command::new("testssl");
    command.args(options).args(["--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--assume-http"]);
    command.args(["--connect-timeout", "10", "--openssl-timeout", "10", "--jsonfile"]).arg(&report).arg(app.address());
    let said = runs(command).await;
    let report = read(&report, &said);
    let findings = report.as_array().expect("a list of findings");
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    assert!(findings.iter().any(|finding| text(finding, "id") == reached), "{options:?} stopped early: {said}");
    for finding in findings {
        let (id, severity) = (text(finding, "id"), text(finding, "severity"));
        let expected = EXPECTED.iter().any(|(expected, _)| *expected == id);
        assert!(expected || matches!(&*severity, "OK" | "INFO"), "testssl.sh {options:?}: {finding}");
    }
}

/// Runs sslyze and gives what it found.
async fn sslyze(app: &App, dir: &Path) -> Value {
    let sslyze = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".cache/scanners/bin/sslyze");
    let report = dir.join("sslyze.json");
    let mut command = Command::new(sslyze);
    command.args([
        "--mozilla_config",
        "disable",
        "--sslv2",
        "--sslv3",
        "--tlsv1",
        "--tlsv1_1",
        "--tlsv1_2",
        "--tlsv1_3",
    ]);
    command.args(["--compression", "--openssl_ccs", "--fallback", "--heartbleed", "--robot", "--reneg"]);
    command.args(["--early_data", "--ems", "--json_out"]).arg(&report).arg(app.address());
    let said = runs(command).await;
    let mut report = read(&report, &said);
    report["server_scan_results"][0]["scan_result"].take()
}

fn accepted(found: &Value, version: &str) -> BTreeSet<String> {
    let suites = found[version]["result"]["accepted_cipher_suites"].as_array();
    let suites = suites.unwrap_or_else(|| panic!("{version}: {}", found[version]));
    suites.iter().filter_map(|suite| suite["cipher_suite"]["name"].as_str().map(str::to_owned)).collect()
}

fn sslyze_agrees(found: &Value) {
    for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"] {
        assert_eq!(accepted(found, &format!("{version}_cipher_suites")), BTreeSet::new(), "{version}");
    }
    let with = |start: &str| {
        ["AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"]
            .map(|end| format!("{start}_{end}"))
            .into()
    };
    assert_eq!(accepted(found, "tls_1_2_cipher_suites"), with("TLS_ECDHE_ECDSA_WITH"));
    assert_eq!(accepted(found, "tls_1_3_cipher_suites"), with("TLS"));
    for (scan, key, wanted) in [
        ("tls_compression", "supports_compression", Value::from(false)),
        ("tls_1_3_early_data", "supports_early_data", false.into()),
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", false.into()),
        ("heartbleed", "is_vulnerable_to_heartbleed", false.into()),
        ("robot", "robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED".into()),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", false.into()),
        ("session_renegotiation", "supports_secure_renegotiation", true.into()),
        ("tls_fallback_scsv", "supports_fallback_scsv", true.into()),
        ("tls_extended_master_secret", "supports_ems_extension", true.into()),
    ] {
        assert_eq!(found[scan]["result"][key], wanted, "{scan}: {}", found[scan]);
    }
}

#[tokio::test]
async fn scanners_find_nothing_to_mend() {
    let (_nats, app, _certificate) = served().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (app, dir) = (&app, dir.path());
    let [one, two, three, four] = PARTS.map(|(options, reached)| testssl(app, dir, options, reached));
    let (found, ..) = tokio::join!(sslyze(app, dir), one, two, three, four);
    sslyze_agrees(&found);
}
