//! Every metric: name, kind, labels and what it says. The page that is scraped and `docs/metrics.md` are both made from this table.
//!
//! Labels are from closed sets, or named by the configuration. Never a user, subject, address or connection.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Values by the bound they do not pass.
    Histogram,
}

impl Kind {
    /// The word in the exposition format.
    pub fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What is known of a metric beside its values.
#[derive(Debug)]
pub struct Metric {
    /// As it is scraped.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Names of its labels, in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// What it says, in one sentence.
    pub help: &'static str,
}

/// Metrics that belong together.
#[derive(Debug)]
pub struct Section {
    /// What they are about.
    pub title: &'static str,
    /// Which.
    pub metrics: &'static [&'static Metric],
}

macro_rules! table {
    ($($title:literal { $($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub static $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )+)+
        /// All of them.
        pub static SECTIONS: &[Section] = &[$(Section { title: $title, metrics: &[$(&$constant),+] }),+];
    };
}

table! {
    "Process" {
        BUILD_INFO = Gauge "sidestream_build_info" ["version", "revision", "rustc", "crypto"]
            "Always 1; the labels say what is running";
        START_TIME = Gauge "sidestream_start_time_seconds" [] "Start of the process since the epoch";
        READY = Gauge "sidestream_ready" [] "What /readyz says: 1 while new streams can be served";
        RELOAD_SUCCESSFUL = Gauge "sidestream_config_last_reload_successful" []
            "Whether the configuration that was read last is in force; 1 from the start on";
        RELOAD_TIMESTAMP = Gauge "sidestream_config_last_reload_timestamp_seconds" []
            "When the configuration in force was read, since the epoch";
        CERTIFICATE_NOT_AFTER = Gauge "sidestream_certificate_not_after_timestamp_seconds" []
            "When the certificate that is shown expires, since the epoch; only with [server.tls]";
        CERTIFICATE_RELOADS = Counter "sidestream_certificate_reloads_total" ["outcome"]
            "Certificate files that had changed, by whether they could be used";
        PANICS = Counter "sidestream_panics_total" [] "Panics of connection tasks, contained";
        LOG_LINES_DROPPED = Counter "sidestream_log_lines_dropped_total" ["cause"]
            "Log lines not written: one place in the code had written too many, or standard error took none";
        SHARDS = Gauge "sidestream_shards" [] "Threads that serve connections";
        CPU = Counter "process_cpu_seconds_total" [] "CPU time of the process, user and system";
        RESIDENT = Gauge "process_resident_memory_bytes" [] "Resident memory";
        OPEN_FDS = Gauge "process_open_fds" [] "Open file descriptors";
        MAX_FDS = Gauge "process_max_fds" [] "Most file descriptors that may be open";
        PROCESS_START_TIME = Gauge "process_start_time_seconds" [] "Start of the process since the epoch, under its usual name";
    }
    "Memory" {
        MEMORY_BUDGET = Gauge "sidestream_memory_budget_bytes" []
            "Bytes the process may use before new streams wait; 0 without a budget";
        MEMORY_USED = Gauge "sidestream_memory_used_bytes" [] "Bytes that count against the memory budget";
        MEMORY_HELD_BACK = Gauge "sidestream_memory_held_back" [] "Whether new streams wait because memory is short";
        FRAMES = Gauge "sidestream_frames_bytes" [] "Bytes that events hold in memory, in the history and in queues";
    }
    "Connections" {
        CONNECTIONS = Gauge "sidestream_connections" [] "Event streams open now";
        CONNECTIONS_TOTAL = Counter "sidestream_connections_total" ["route", "proto"] "Event streams opened";
        CONNECTIONS_CLOSED = Counter "sidestream_connections_closed_total" ["route", "reason", "phase"]
            "Event streams ended; in the phase `opening` also such as never opened";
        CONNECTIONS_REJECTED = Counter "sidestream_connections_rejected_total" ["reason"] "Streams refused softly";
        REQUESTS_REFUSED = Counter "sidestream_requests_refused_total" ["code"] "Requests refused for good";
        CONNECTION_DURATION = Histogram "sidestream_connection_duration_seconds" ["route"]
            "How long event streams lasted, from the request to the end";
        FIRST_BYTE = Histogram "sidestream_time_to_first_byte_seconds" ["route"]
            "From a request's head to the answer's, for event streams";
        USERS = Gauge "sidestream_users" [] "Users with an event stream, as of the last look at memory";
        SUBSCRIPTIONS = Gauge "sidestream_subscriptions" [] "Subject patterns that open event streams hear, added up";
        IDENTITIES = Counter "sidestream_identities_total" ["proof"] "Identities believed, by the proxy's proof";
        TASKS = Gauge "sidestream_tasks" [] "Tasks that serve a connection";
        PEERS_REFUSED = Counter "sidestream_peers_refused_total" [] "Peers on a unix socket whose uid is not allowed";
        PROXY_PROTOCOL_REFUSED = Counter "sidestream_proxy_protocol_refused_total" []
            "Connections closed for want of a PROXY protocol header, or from where none is taken";
        TLS_HANDSHAKES_FAILED = Counter "sidestream_tls_handshakes_failed_total" []
            "TLS handshakes that failed or took too long";
        ACCEPT_PAUSES = Counter "sidestream_accept_pauses_total" []
            "Moments of 50 ms in which a listener accepted nobody for want of descriptors or room";
    }
    "Presence" {
        PRESENCE_PUBLISHED = Counter "sidestream_presence_published_total" ["event"]
            "Changes of users that this sidecar has published on presence.subject";
        PRESENCE_PUBLISHING = Gauge "sidestream_presence_publishing" []
            "Whether this sidecar is the one that publishes presence for all";
        PRESENCE_LEFT_OUT = Counter "sidestream_presence_left_out_total" []
            "Users of other sidecars of whom presence has no room to know";
    }
    "Delivery" {
        EVENTS_RECEIVED = Counter "sidestream_events_received_total" ["source"] "Messages read from NATS";
        EVENTS_SENT = Counter "sidestream_events_sent_total" [] "Events written or queued for clients, and notices to all who hear a stream; not what opens or ends one client's stream";
        BYTES_SENT = Counter "sidestream_bytes_sent_total" [] "Bytes of event streams handed to sockets";
        WRITES = Counter "sidestream_writes_total" [] "Write calls made for event streams";
        HEARTBEATS = Counter "sidestream_heartbeats_sent_total" [] "Heartbeats written or queued";
        DELIVERY_LATENCY = Histogram "sidestream_delivery_latency_seconds" []
            "From reading an event until every client that hears it had been written to; the oldest event of each batch";
        PUBLISH_TO_SOCKET = Histogram "sidestream_publish_to_socket_seconds" []
            "The same from the time at which NATS stored the event, by two clocks; streams only";
        EVENT_NAMES_REPLACED = Counter "sidestream_event_names_replaced_total" []
            "Event names that publishers chose and may not use";
    }
    "Slow clients" {
        QUEUE = Gauge "sidestream_queue_bytes" [] "Bytes that wait for clients; queues share them";
        SLOW_CLIENTS = Gauge "sidestream_slow_clients" [] "Clients for which something waits, as of the last sweep";
        CLIENT_QUEUE = Histogram "sidestream_client_queue_bytes" [] "Bytes that waited for a client when its stream ended";
        FELL_BEHIND = Counter "sidestream_readers_fell_behind_total" []
            "Times a reader's backlog was full and it went on from the stream's log";
    }
    "Resume and gaps" {
        RESUMES = Counter "sidestream_resumes_total" ["route", "outcome"] "How streams were opened";
        RESUME_AGE = Histogram "sidestream_resume_age_seconds" ["route"]
            "How old the last event was that a resuming client had";
        REPLAYED = Counter "sidestream_replayed_events_total" []
            "Events served to resuming clients from beyond the history in memory";
        REPLAY_PASSES = Gauge "sidestream_replay_passes" []
            "Passes over the past of streams: reads that clients share who resume from beyond the history in memory";
        LAST_VALUES = Counter "sidestream_last_values_total" [] "Last values served to clients that begin with them";
        LAST_VALUE_READS = Counter "sidestream_last_value_reads_total" []
            "Reads of last values from NATS: one for each pattern, which clients share that connect within five seconds";
        GAPS = Counter "sidestream_gaps_total" ["reason"] "Declared gaps";
    }
    "NATS" {
        NATS_CONNECTED = Gauge "sidestream_nats_connected" ["stream"] "Whether the stream is being read";
        NATS_CORE_CONNECTED = Gauge "sidestream_nats_core_connected" [] "Whether core subjects can be heard";
        NODES = Gauge "sidestream_nodes" []
            "Living sidecars on the same NATS account, this one included: whose answers make a sum over all complete";
        NATS_RECONNECTS = Counter "sidestream_nats_reconnects_total" [] "Connections to NATS made again after a loss";
        NATS_RTT = Gauge "sidestream_nats_rtt_seconds" ["stream"]
            "How long the stream's leader took to answer the last question, asked every ten seconds";
        NATS_LAG = Gauge "sidestream_nats_lag_events" ["stream"]
            "Sequences by which the stream was ahead of what had been read, at the last answer of its leader";
        STREAM_HEAD = Gauge "sidestream_stream_head" ["stream"] "Newest stream sequence read";
        NATS_SUBSCRIPTIONS = Gauge "sidestream_nats_subscriptions" [] "Core NATS subscriptions held";
        NATS_SERVER_OUTDATED = Gauge "sidestream_nats_server_outdated" [] "Whether the NATS server has known security faults";
        SUBJECT_VIOLATIONS = Counter "sidestream_subject_violations_total" []
            "Messages outside the subscription they came by, dropped";
        POISON = Counter "sidestream_poison_messages_total" [] "Messages the NATS client cannot read, stepped over";
    }
}
