//! A device tree as a list of tokens, to be changed and put together again, well-formed or not.

use super::random::Random;

/// A token of the structure block.
#[derive(Clone, Debug)]
pub(crate) enum Token {
    Begin(Vec<u8>),
    /// `length` is what the token says of the value's length, if that is wrong.
    Property {
        name: u32,
        value: Vec<u8>,
        length: Option<u32>,
    },
    /// A token without data, of this number.
    Bare(u32),
}

const END_NODE: u32 = 2;
const NOP: u32 = 4;
const END: u32 = 9;

/// The parts of a blob.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    reservations: Vec<u8>,
    tokens: Vec<Token>,
    strings: Vec<u8>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl Parts {
    /// Takes a sound blob apart.
    pub(crate) fn of(blob: &[u8]) -> Self {
        let [structure, strings, reservations] = [8, 12, 16].map(|at| word(blob, at) as usize);
        let end = strings + word(blob, 32) as usize;
        let (mut tokens, mut at) = (Vec::new(), structure);
        loop {
            let token = word(blob, at);
            at += 4;
            match token {
                1 => {
                    let name: Vec<u8> =
                        blob[at..].iter().copied().take_while(|byte| *byte != 0).collect();
                    at = (at + name.len() + 1).next_multiple_of(4);
                    tokens.push(Token::Begin(name));
                }
                3 => {
                    let (length, name) = (word(blob, at) as usize, word(blob, at + 4));
                    let value = blob[at + 8..at + 8 + length].to_vec();
                    at = (at + 8 + length).next_multiple_of(4);
                    tokens.push(Token::Property { name, value, length: None });
                }
                _ => tokens.push(Token::Bare(token)),
            }
            if token == END {
                break;
            }
        }
        let reservations = blob[reservations..structure].to_vec();
        Self { reservations, tokens, strings: blob[strings..end].to_vec() }
    }

    /// Puts the blob together, with `gap` words before each block.
    pub(crate) fn blob(&self, gap: usize) -> Vec<u8> {
        let pad = |bytes: &mut Vec<u8>| {
            bytes.resize(bytes.len().next_multiple_of(8) + 8 * gap, 0xa5);
            bytes.len()
        };
        let mut bytes = vec![0; 40];
        let reservations = pad(&mut bytes);
        bytes.extend(&self.reservations);
        let structure = pad(&mut bytes);
        for token in &self.tokens {
            token.append(&mut bytes);
        }
        let structure_size = bytes.len() - structure;
        let strings = pad(&mut bytes);
        bytes.extend(&self.strings);
        let header = [
            0xd00d_feed,
            bytes.len(),
            structure,
            strings,
            reservations,
            17,
            16,
            0,
            self.strings.len(),
            structure_size,
        ];
        for (at, word) in header.into_iter().enumerate() {
            bytes[4 * at..4 * at + 4].copy_from_slice(&(word as u32).to_be_bytes());
        }
        bytes
    }

    /// Changes the list once.
    pub(crate) fn mutate(&mut self, random: &mut Random) {
        let at = random.below(self.tokens.len());
        match random.below(11) {
            0 => self.tokens.insert(at, Token::Bare(NOP)),
            1 => self.tokens.insert(at, self.tokens[at].clone()),
            2 => drop(self.tokens.remove(at)),
            3 => {
                let other = random.below(self.tokens.len());
                self.tokens.swap(at, other);
            }
            4 => self.repeat_node(random, at),
            5 => self.nest(random, at),
            6 => self.set_length(random, at),
            7 => self.rename(random, at),
            8 => self.crowd(random, at),
            9 => self.change_value(random, at),
            _ => self.tokens.insert(at, Token::Bare(random.below(12) as u32)),
        }
        // An empty list has no token to begin at.
        if self.tokens.is_empty() {
            self.tokens.push(Token::Bare(END));
        }
    }

    /// Copies a piece of the list to another place.
    fn repeat_node(&mut self, random: &mut Random, at: usize) {
        let length = (1 + random.below(12)).min(self.tokens.len() - at);
        let piece = self.tokens[at..at + length].to_vec();
        let to = random.below(self.tokens.len());
        self.tokens.splice(to..to, piece);
    }

    /// Puts nodes into one another.
    fn nest(&mut self, random: &mut Random, at: usize) {
        let most = if random.below(8) == 0 { 200 } else { 24 };
        let levels = 1 + random.below(most);
        let begin = (0..levels).map(|_| Token::Begin(b"nested".to_vec()));
        let end = (0..levels).map(|_| Token::Bare(END_NODE));
        self.tokens.splice(at..at, begin.chain(end));
    }

    fn set_length(&mut self, random: &mut Random, from: usize) {
        if let Some(Token::Property { value, length, .. }) = self.property(from) {
            *length = Some(match random.below(4) {
                0 => u32::MAX - random.below(8) as u32,
                1 => random.below(1 << 20) as u32,
                2 => value.len() as u32 + random.below(8) as u32,
                _ => (value.len() as u32).saturating_sub(random.below(8) as u32),
            });
        }
    }

    /// Gives a node or a property another name: a neighbour's, none, a long one, or damage.
    fn rename(&mut self, random: &mut Random, from: usize) {
        let strings = self.strings.len();
        let other = self.tokens.iter().skip(random.below(self.tokens.len())).find_map(|token| {
            if let Token::Begin(name) = token { Some(name.clone()) } else { None }
        });
        let kind = random.below(5);
        match &mut self.tokens[from] {
            Token::Begin(name) => {
                *name = match kind {
                    0 => Vec::new(),
                    1 => vec![b'x'; 200 + random.below(200)],
                    2 => vec![0xff, 0xfe],
                    _ => other.unwrap_or_default(),
                };
            }
            Token::Property { name, .. } if kind == 0 => *name = u32::MAX,
            Token::Property { name, .. } => *name = random.below(strings + 8) as u32,
            Token::Bare(_) => {}
        }
    }

    /// Many siblings, or a value that fills the buffer. Seldom: they take time.
    fn crowd(&mut self, random: &mut Random, from: usize) {
        match random.below(64) {
            0 => {
                let count = 1020 + random.below(8);
                let nodes = (0..count).flat_map(|number| {
                    [Token::Begin(format!("n{number}").into_bytes()), Token::Bare(END_NODE)]
                });
                let nodes: Vec<Token> = nodes.collect();
                let end = self.tokens.len().saturating_sub(2);
                self.tokens.splice(end..end, nodes);
            }
            1 => {
                if let Some(Token::Property { value, .. }) = self.property(from) {
                    value.resize(200_000 + random.below(100_000), 0);
                }
            }
            2 => {
                self.strings.pop();
            }
            3 => self.reservations.truncate(self.reservations.len().saturating_sub(16)),
            4 => {
                let entry = [0x11; 16];
                self.reservations.splice(0..0, entry);
            }
            _ => {}
        }
    }

    /// Changes the length or the bytes of a value.
    fn change_value(&mut self, random: &mut Random, from: usize) {
        if let Some(Token::Property { value, .. }) = self.property(from) {
            match random.below(3) {
                0 => value.truncate(random.below(value.len() + 1)),
                1 => value.extend((0..random.below(9)).map(|_| 0)),
                _ => {
                    for byte in value {
                        *byte = random.below(256) as u8;
                    }
                }
            }
        }
    }

    /// The first property from the token `from` on.
    fn property(&mut self, from: usize) -> Option<&mut Token> {
        self.tokens[from..].iter_mut().find(|token| matches!(token, Token::Property { .. }))
    }
}

impl Token {
    fn append(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Begin(name) => {
                bytes.extend(1u32.to_be_bytes());
                bytes.extend(name);
                bytes.push(0);
            }
            Self::Property { name, value, length } => {
                bytes.extend(3u32.to_be_bytes());
                bytes.extend(length.unwrap_or(value.len() as u32).to_be_bytes());
                bytes.extend(name.to_be_bytes());
                bytes.extend(value);
            }
            Self::Bare(number) => bytes.extend(number.to_be_bytes()),
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}
