//! A web server on the host's loopback that serves files to the guest.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

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
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut stream = stream;
    let wanted = request.strip_prefix("GET /").and_then(|rest| rest.split(' ').next());
    if let Some((_, bytes)) = files.iter().find(|(name, _)| Some(*name) == wanted) {
        let length = bytes.len();
        write!(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\nContent-Type: application/octet-stream\r\n\r\n"
        )?;
        stream.write_all(bytes)
    } else {
        write!(stream, "HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Server;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn ask(port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
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
