//! The rival: nginx with nchan, one worker, a configuration and a directory of its own.

mod publisher;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::publisher::Publisher;
use crate::engine::Protocol;
use crate::support::http;
use crate::support::process::{Process, SERVER_CORE, command, free_port, until};
use crate::support::sidecar::Certificate;

/// Requests on their way at the same time.
const WINDOW: usize = 64;

/// An nginx that runs.
pub struct Nchan {
    pub process: Process,
    /// Where subscribers connect.
    pub port: u16,
    admin: u16,
    publisher: Publisher,
}

impl Nchan {
    /// Whether this machine has it.
    pub fn is_here() -> bool {
        module().is_some_and(|module| module.exists())
    }

    /// Its version, and nginx's.
    pub fn version() -> String {
        if !Self::is_here() {
            return "no nchan".to_owned();
        }
        let output = Command::new(nginx()).arg("-v").output().expect("nginx runs");
        let nginx = String::from_utf8_lossy(&output.stderr).trim().rsplit('/').next().unwrap_or_default().to_owned();
        format!(
            "nginx {nginx} with nchan {}",
            std::env::var("NCHAN_VERSION").unwrap_or_else(|_| "of unknown version".to_owned())
        )
    }

    /// Starts one.
    pub fn start(directory: &Path, protocol: Protocol, certificate: &Certificate, heartbeat: u64) -> Self {
        let (port, admin) = (free_port(), free_port());
        let prefix = directory.join(format!("nchan-{port}"));
        std::fs::create_dir(&prefix).expect("a directory");
        let config = prefix.join("nginx.conf");
        let text = configuration(&prefix, protocol, certificate, heartbeat, [port, admin]);
        std::fs::write(&config, text).expect("the configuration is written");
        let mut command = command(Some(SERVER_CORE), &nginx());
        command.arg("-p").arg(&prefix).arg("-c").arg(&config).arg("-e").arg(prefix.join("error.log"));
        let mut process = Process::spawn(command.stdin(Stdio::null()));
        until("an nginx that listens", || {
            assert!(process.runs(), "nginx does not take its configuration; see above");
            TcpStream::connect(("127.0.0.1", admin)).is_ok()
        });
        Self { process, port, admin, publisher: Publisher::connect(admin) }
    }

    /// Waits until nobody listens.
    pub fn is_empty(&self) {
        until("an nchan that nobody listens to", || {
            let status = http::get(self.admin, "/status");
            status.lines().find_map(|line| line.strip_prefix("subscribers: ")) == Some("0")
        });
    }

    /// Publishes to channels, over one connection that is kept; ends when all is taken.
    pub fn publish<'a>(&mut self, messages: impl IntoIterator<Item = (&'a str, Vec<u8>)>) {
        for (place, (channel, payload)) in messages.into_iter().enumerate() {
            self.publisher.put(channel, &payload);
            if (place + 1).is_multiple_of(WINDOW) {
                self.publisher.settle(0);
            }
        }
        self.publisher.settle(0);
    }

    /// Publishes to a channel, and waits only while a whole window is not answered.
    pub fn fire(&mut self, channel: &str, payload: &[u8]) {
        self.publisher.put(channel, payload);
        self.publisher.settle(WINDOW);
    }
}

fn nginx() -> PathBuf {
    std::env::var_os("NGINX_PROGRAM").map_or_else(|| "/usr/sbin/nginx".into(), PathBuf::from)
}

fn module() -> Option<PathBuf> {
    std::env::var_os("NCHAN_MODULE").map(PathBuf::from)
}

fn configuration(
    prefix: &Path,
    protocol: Protocol,
    certificate: &Certificate,
    heartbeat: u64,
    [port, admin]: [u16; 2],
) -> String {
    let listen = match protocol {
        Protocol::Plain => "",
        Protocol::Tls => " ssl",
        Protocol::H2 => " ssl http2",
        Protocol::H2c => " http2",
    };
    let tls = format!(
        "ssl_certificate {:?}; ssl_certificate_key {:?}; ssl_protocols TLSv1.3;",
        certificate.chain.display(),
        certificate.key.display()
    );
    // As root nginx would give its worker another user, who has no way into the directory.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        r#"
        load_module {module:?};
        daemon off;
        {user}
        worker_processes 1;
        error_log {prefix}/error.log crit;
        pid {prefix}/nginx.pid;
        events {{ worker_connections 60000; }}
        http {{
            access_log off;
            client_body_temp_path {prefix}/body;
            proxy_temp_path {prefix}/proxy;
            fastcgi_temp_path {prefix}/fastcgi;
            uwsgi_temp_path {prefix}/uwsgi;
            scgi_temp_path {prefix}/scgi;
            keepalive_requests 1000000000;
            keepalive_timeout 1h;
            nchan_shared_memory_size 1G;
            nchan_message_buffer_length 100;
            nchan_message_timeout 1h;
            server {{
                listen 127.0.0.1:{port} backlog=4096{listen};
                {tls}
                nchan_eventsource_ping_interval {heartbeat};
                # Live only.
                location = /sub {{
                    nchan_subscriber eventsource;
                    nchan_subscriber_first_message newest;
                    nchan_channel_id $arg_id;
                }}
                # What is there already comes first: the user's own, and everybody's.
                location = /storm {{
                    nchan_subscriber eventsource;
                    nchan_subscriber_first_message oldest;
                    nchan_channel_id $arg_id broadcast;
                }}
            }}
            server {{
                listen 127.0.0.1:{admin};
                location = /status {{
                    nchan_stub_status;
                }}
                location = /pub {{
                    nchan_publisher;
                    nchan_channel_id $arg_id;
                }}
            }}
        }}
        "#,
        module = module().expect("nchan is here").display(),
        prefix = prefix.display(),
    )
}
