//! A trace file as it comes: bytes in, chunks out, with no look back and none ahead.

use anyhow::{Result, bail};

use super::format::{
    CHUNK_HEADER_BYTES, CHUNK_MAGIC, ChunkHeader, FILE_HEADER_BYTES, FILE_MAGIC, FILE_VERSION,
    MAX_PAYLOAD_BYTES, checksum, word,
};

/// Takes a trace file's bytes in pieces of any size.
#[derive(Debug, Default)]
pub struct ChunkStream {
    bytes: Vec<u8>,
    /// The offset in `bytes` of the next chunk.
    at: usize,
    has_header: bool,
    /// Bytes that made no chunk and were left out.
    pub damaged_bytes: u64,
}

impl ChunkStream {
    /// Takes more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole chunk, or `None` until more bytes come.
    ///
    /// # Errors
    ///
    /// The bytes are no trace, or one of another version.
    pub fn next_chunk(&mut self) -> Result<Option<(ChunkHeader, Vec<u8>)>> {
        if !self.has_header {
            let Some(header) = self.rest().first_chunk::<FILE_HEADER_BYTES>() else {
                return Ok(None);
            };
            if header.first_chunk() != Some(&FILE_MAGIC) {
                bail!("not a trace: it does not begin with OCHEFILE");
            }
            let version = word(header, 8).unwrap_or(0) as u32;
            if version != FILE_VERSION {
                bail!("a trace of version {version}; this program reads version {FILE_VERSION}");
            }
            self.has_header = true;
            self.at += FILE_HEADER_BYTES;
        }
        loop {
            let Some(bytes) = self.rest().first_chunk::<CHUNK_HEADER_BYTES>() else {
                return Ok(None);
            };
            let header = ChunkHeader::from_bytes(bytes).filter(|header| {
                header.payload_bytes <= MAX_PAYLOAD_BYTES && header.payload_bytes.is_multiple_of(8)
            });
            let Some(header) = header else {
                self.skip();
                continue;
            };
            let end = CHUNK_HEADER_BYTES + header.payload_bytes as usize;
            let Some(payload) = self.rest().get(CHUNK_HEADER_BYTES..end) else { return Ok(None) };
            if checksum(&header, payload) != header.checksum {
                self.skip();
                continue;
            }
            let payload = payload.to_vec();
            self.at += end;
            return Ok(Some((header, payload)));
        }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Goes on at the next bytes that may begin a chunk.
    fn skip(&mut self) {
        let rest = self.rest();
        let next = (1..rest.len()).find(|at| rest.get(*at..).is_some_and(begins));
        let bytes = next.unwrap_or(rest.len());
        self.damaged_bytes += bytes as u64;
        self.at += bytes;
    }
}

fn begins(rest: &[u8]) -> bool {
    let most = rest.len().min(CHUNK_MAGIC.len());
    rest.get(..most) == CHUNK_MAGIC.get(..most)
}

#[cfg(test)]
mod tests {
    use super::super::format::{chunk, file_header};
    use super::*;

    fn file() -> Vec<u8> {
        let mut bytes = file_header(7).to_vec();
        for kind in 1..4 {
            bytes.extend(chunk(ChunkHeader { kind, ..ChunkHeader::default() }, &[kind as u8; 40]));
        }
        bytes
    }

    fn kinds(bytes: &[u8], piece: usize) -> (Vec<u32>, u64) {
        let mut stream = ChunkStream::default();
        let mut kinds = Vec::new();
        for piece in bytes.chunks(piece) {
            stream.feed(piece);
            while let Some((header, payload)) = stream.next_chunk().unwrap() {
                assert_eq!(payload, [header.kind as u8; 40]);
                kinds.push(header.kind);
            }
        }
        (kinds, stream.damaged_bytes)
    }

    #[test]
    fn pieces_of_any_size_give_the_same_chunks() {
        for piece in [1, 2, 7, 63, 64, 65, 1000] {
            assert_eq!(kinds(&file(), piece), (vec![1, 2, 3], 0), "{piece}");
        }
    }

    #[test]
    fn a_damaged_chunk_is_left_out_and_counted() {
        let mut bytes = file();
        bytes[32 + 104 + 70] ^= 1;
        for piece in [1, 50, 1000] {
            assert_eq!(kinds(&bytes, piece), (vec![1, 3], 104), "{piece}");
        }
        bytes.splice(32..32, *b"rubbish!OCHE");
        assert_eq!(kinds(&bytes, 13), (vec![1, 3], 116));
    }

    #[test]
    fn what_is_no_trace_is_refused_in_one_line() {
        let mut stream = ChunkStream::default();
        stream.feed(&[b'x'; 100]);
        assert!(stream.next_chunk().unwrap_err().to_string().contains("OCHEFILE"));
        let mut newer = file();
        newer[8] = 9;
        let mut stream = ChunkStream::default();
        stream.feed(&newer);
        assert!(stream.next_chunk().unwrap_err().to_string().contains("version 9"));
    }
}
