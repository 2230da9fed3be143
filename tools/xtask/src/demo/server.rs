//! A web server on the host's loopback that serves files to the guest, and compares what the guest
//! sends with them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// The answers to a guest that sends a file.
const SAME: &[u8] = b"same";
const DIFFERENT: &[u8] = b"different";

/// How long one guest may leave a connection idle.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that ends with this value.
#[derive(Debug)]
pub struct Server {
    port: u16,
    is_over: Arc<AtomicBool>,
}

impl Server {
    /// Starts serving files by their names, such as `random`, on a port that the system chooses.
    ///
    /// # Errors
    ///
    /// The loopback has no free port.
    pub fn start(files: Vec<(&'static str, Vec<u8>)>) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on the loopback")?;
        let port = listener.local_addr().context("the server's port")?.port();
        let is_over = Arc::new(AtomicBool::new(false));
        let (files, over) = (Arc::new(files), Arc::clone(&is_over));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(stream) = stream {
                    let files = Arc::clone(&files);
                    // A guest that goes away in the middle is the guest's digest's affair.
                    thread::spawn(move || serve(&stream, &files).ok());
                }
            }
        });
        Ok(Self { port, is_over })
    }

    /// The port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread up; if that fails it is awake already.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn serve(stream: &TcpStream, files: &[(&str, Vec<u8>)]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut lines = (&mut reader).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut sent = 0;
    while let Some(header) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        sent = content_length(&header).unwrap_or(sent);
    }
    let mut stream = stream;
    let mut words = request.split(' ');
    let (method, path) = (words.next(), words.next().and_then(|path| path.strip_prefix('/')));
    match (method, files.iter().find(|(name, _)| Some(*name) == path)) {
        (Some("GET"), Some((_, bytes))) => answer(&mut stream, bytes),
        (Some("POST"), Some((_, bytes))) => {
            let mut body = Vec::new();
            // No more than could be equal.
            reader.take(sent.min(bytes.len() as u64 + 1)).read_to_end(&mut body)?;
            answer(&mut stream, if body == *bytes { SAME } else { DIFFERENT })
        }
        _ => write!(stream, "HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    }
}

fn content_length(header: &str) -> Option<u64> {
    let (name, value) = header.split_once(':')?;
    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
}

fn answer(stream: &mut &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Length: {}\r\nContent-Type: application/octet-stream\r\n\r\n",
        bytes.len()
    )?;
    stream.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::Server;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn request(port: u16, method: &str, path: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n").unwrap();
        write!(stream, "content-length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn ask(port: u16, path: &str) -> String {
        request(port, "GET", path, b"")
    }

    #[test]
    fn a_file_that_is_sent_is_compared_whole() {
        let server = Server::start(vec![("data", b"0123\n\0\xff".to_vec())]).unwrap();
        let verdict = |body: &[u8]| {
            let answer = request(server.port(), "POST", "/data", body);
            answer.rsplit_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
        };
        assert_eq!(verdict(b"0123\n\0\xff"), "same");
        for wrong in [b"0123\n\0\xfe".as_slice(), b"0123\n\0", b"0123\n\0\xff+", b""] {
            assert_eq!(verdict(wrong), "different", "{wrong:?}");
        }
        assert!(request(server.port(), "POST", "/other", b"1").starts_with("HTTP/1.0 404"));
    }

    #[test]
    fn files_are_served_whole_and_nothing_else_is() {
        let server =
            Server::start(vec![("random", b"0123456789".to_vec()), ("part", b"01".to_vec())])
                .unwrap();
        let answer = ask(server.port(), "/random");
        assert!(
            answer.starts_with("HTTP/1.0 200") && answer.contains("Content-Length: 10"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n0123456789"), "{answer}");
        assert!(ask(server.port(), "/part").ends_with("\r\n\r\n01"));
        assert!(ask(server.port(), "/etc/passwd").starts_with("HTTP/1.0 404"));
    }
}
