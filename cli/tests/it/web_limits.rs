//! What requests and slow clients may cost the console.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;
use crate::web::{Ask, Console, OPERATOR, Said, insert, secrets};

const MB: u64 = 1_000_000;

/// Data of 20 MB that the database cannot compress away.
const LARGE: &str =
    "(SELECT jsonb_build_object('text', string_agg(md5(n::text), '')) FROM generate_series(1, 625000) n)";

impl Console {
    /// The most memory that the program has used so far, in bytes.
    fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.program.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        1_024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    /// The sockets that the program has open.
    fn sockets(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.program.id())).unwrap().flatten();
        files
            .filter(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
            .count()
    }

    fn range(&self, path: &str, range: &str) -> Said {
        let headers = vec![("authorization", format!("Bearer {OPERATOR}")), ("range", range.to_owned())];
        self.ask("GET", path, Ask { headers, ..Ask::default() })
    }

    /// Sends a request whose response the client does not read.
    fn request(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.host()).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {OPERATOR}\r\n\r\n", self.host());
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }
}

#[tokio::test]
async fn large_data_is_shown_in_part_and_read_on_demand() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let columns = [("event_type", "'t'"), ("source", "'s'"), ("data", LARGE), ("partition_key", "'k'")];
    let id = insert(&test, &columns).await;
    insert(&test, &columns).await;
    let small = insert(&test, &[("event_type", "'t'"), ("source", "'s'"), ("data", "'{\"order\": 7}'")]).await;
    let sql = format!("SELECT octet_length(data::text)::bigint FROM outbox_events WHERE id = '{id}'");
    let total = u64::try_from(test.number(&sql).await).unwrap();
    assert!(total > 20 * MB);
    let cookie = console.sign_in(OPERATOR);
    console.get(&format!("/events/{small}"), &cookie);
    let before = console.peak_memory();

    let path = format!("/events/{id}");
    let page = console.get(&path, &cookie).body;
    assert!(page.len() < 300_000 && page.contains("c4ca4238a0b923820dcc509a6f75849b"), "{} bytes", page.len());
    let rest = format!("<a href=\"{path}/data\">All {total} bytes</a>");
    assert!(page.replace(',', "").contains(&rest), "the rest is a link");
    // A list reads no data.
    for list in ["/events?limit=200", "/api/v1/events?key=k"] {
        let list = console.ask("GET", list, Ask { headers: vec![("cookie", cookie.clone())], ..Ask::default() });
        assert!(list.status == 200 && list.body.contains(&id) && list.body.len() < 20_000, "{} bytes", list.body.len());
    }
    // An open page asks for less every two seconds.
    let headers = vec![("cookie", cookie.clone()), ("hx-request", "true".to_owned())];
    let refreshed = console.ask("GET", &path, Ask { headers, ..Ask::default() });
    assert!(refreshed.status == 200 && refreshed.body.contains("id=\"live\""), "{}", refreshed.body);
    assert!(refreshed.body.len() < 10_000 && !refreshed.body.contains("c4ca4238"), "{} bytes", refreshed.body.len());

    let answer = console.api("GET", &path, OPERATOR, None).json();
    assert_eq!((&answer["event"]["data"], &answer["data_bytes"]), (&Value::Null, &total.into()));
    let answer = console.api("GET", &format!("/events/{small}"), OPERATOR, None).json();
    assert_eq!((&answer["event"]["data"]["order"], &answer["data_bytes"]), (&7.into(), &12.into()));
    let file = format!("/api/v1{path}/data");
    let part = console.range(&file, "bytes=0-9");
    assert_eq!((part.status, part.body.as_str()), (206, "{\"text\": \""));
    let end = console.range(&file, "bytes=-2");
    assert_eq!((end.status, end.body.as_str()), (206, "\"}"));
    assert_eq!(console.range(&file, &format!("bytes={total}-")).status, 416);
    let head = console.api("HEAD", &format!("{path}/data"), OPERATOR, None);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let none = insert(&test, &[("event_type", "'t'"), ("source", "'s'")]).await;
    assert_eq!(console.api("GET", &format!("/events/{none}/data"), OPERATOR, None).status, 404);

    // The whole, by a client that takes it slowly.
    let mut stream = console.request(&file);
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    while !answer.ends_with(b"\"}") {
        let taken = stream.read(&mut chunk).unwrap();
        assert!(taken > 0, "the answer ends after {} bytes", answer.len());
        answer.extend_from_slice(&chunk[..taken]);
    }
    let header = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!((answer.len() - header) as u64, total);
    let used = console.peak_memory() - before;
    assert!(used < 12 * MB, "{used} bytes for data of {total}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_given_up_and_holds_little_memory() {
    const CLIENTS: usize = 12;
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let id = insert(&test, &[("event_type", "'t'"), ("source", "'s'"), ("data", LARGE)]).await;
    console.api("GET", "/events", OPERATOR, None);
    let before = console.peak_memory();
    assert!(console.sockets() < CLIENTS, "besides clients there are few");
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| console.request(&format!("/api/v1/events/{id}/data"))).collect();
    eventually("they are served", PATIENCE, async || console.sockets() >= CLIENTS).await;
    assert_eq!(console.api("GET", "/events", OPERATOR, None).status, 200, "others are served meanwhile");
    eventually("they are given up", 2 * PATIENCE, async || console.sockets() < CLIENTS).await;
    let used = console.peak_memory() - before;
    assert!(used < CLIENTS as u64 * MB, "{used} bytes for {CLIENTS} clients");
    drop(clients);
}

#[tokio::test]
async fn connections_are_bounded() {
    const BOUND: usize = 256;
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    assert_eq!(console.api("GET", "/events", OPERATOR, None).status, 200);
    let others = console.sockets();
    let idle: Vec<TcpStream> = (0..BOUND + 60).map(|_| TcpStream::connect(console.host()).unwrap()).collect();
    eventually("as many as are allowed are accepted", PATIENCE, async || console.sockets() >= BOUND).await;
    // This one waits until others have taken too long to send a request.
    assert_eq!(console.api("GET", "/events", OPERATOR, None).status, 200);
    assert!(console.sockets() <= others + BOUND + 2, "{} sockets", console.sockets());
    drop(idle);
}
