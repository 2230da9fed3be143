//! The running board: the loop that models its devices, and the result of a run.

use std::ffi::OsString;
use std::process::Child;
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use oche_types::range::{BLOCK, PAGE, PhysRange};

use super::dart::SimulatedDart;
use super::debugger::{Debugger, MachineStop};
use super::flaw::Flaw;
use super::mac::{DARTS, FDT, FDT_BYTES, Mac, STUB};
use super::memory::BoardMemory;
use super::power::SimulatedPowerDomain;
use super::process::{Socket, end, lines_of, spawn};
use super::serial::{self, SerialPort};
use super::usb::{self, UsbController};
use super::{linux, nvme, tables, tree};

/// Where DRAM begins.
const DRAM: u64 = 0x8_0000_0000;
/// The interrupt controller's `INFO`, with the number of its lines. Source: Asahi documentation
/// `hw/soc/aic.md`.
const AIC_INFO: u64 = 0x2_3b10_0004;
const AIC_LINES: u32 = 896;
/// Watchdog 1: the value of its counter at which it resets the machine, and its control register
/// with the bit that has it do so. Source: m1n1 `src/wdt.c`; Linux `drivers/watchdog/apple_wdt.c`.
const WATCHDOG_ALARM: u64 = 0x2_3d2b_0014;
const WATCHDOG_CONTROL: u64 = 0x2_3d2b_001c;
const RESET_ENABLE: u32 = 1 << 2;
/// Its counter does not run here. Software that wants a reset has it due within a second of 24 MHz;
/// software that guards itself is given longer and counts as alive.
const WATCHDOG_SOON: u32 = 24_000_000;
/// How long a board without a kernel of its own may access no device before it counts as hung.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes at the start of each 2 MiB of memory that are not cleared.
const DIRT_BYTES: usize = 0x4000;
/// The end of each bank, where Oche plans its own memory: no page begins with zeros there, but with
/// the address of memory, which is the most harmful value of a word that names an entry point.
const DIRTY_PAGES_BYTES: u64 = 256 << 20;
/// Such words at the start of a page, so that a word for each CPU is among them.
const DIRTY_WORDS: usize = 256;
/// The value of bytes that are not cleared.
pub const DIRT: u8 = 0xa5;

/// The files that the board needs besides the image.
#[derive(Clone, Debug)]
pub struct BoardParts {
    /// The flat stub.
    pub stub: Vec<u8>,
    /// A Mac's device tree, as compiled.
    pub tree: Vec<u8>,
    /// The symbols of Oche's ELF file between which memory is not cleared by any loader: BSS and
    /// stacks.
    pub dirty: PhysRange,
    /// What starts QEMU, as a program and its first arguments; the machine's own arguments follow.
    pub qemu: Vec<OsString>,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct BoardOutcome {
    /// The output of the serial port, in lines.
    pub lines: Vec<String>,
    /// The framebuffer's bytes.
    pub screen: Vec<u8>,
    /// The program counter of the first CPU when time was up.
    pub stands_at: Option<u64>,
    /// Accesses that an M1 does not allow.
    pub violations: Vec<String>,
    /// Invalidations that DARTs carried out.
    pub invalidations: u64,
    /// Bytes that devices wrote.
    pub copied_bytes: u64,
    /// Accesses by devices that DARTs refused.
    pub refusals: u64,
    /// Events that the USB controller wrote.
    pub usb_events: u64,
    /// The watchdog was set to reset the machine.
    pub is_reset: bool,
    /// How often the machine was stopped to model a device.
    pub stops: u64,
    /// The memory as the machine left it; `None` where no board has run.
    pub memory: Option<Rc<BoardMemory>>,
}

impl BoardOutcome {
    /// Whether a line contains `text`.
    #[must_use]
    pub fn has_line(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }

    /// Whether the guest runs, or Oche has announced its start.
    fn has_guest(&self) -> bool {
        self.lines
            .iter()
            .any(|line| line.starts_with("guest: ") || line.contains("the guest starts: "))
    }
}

/// A board that runs.
#[derive(Debug)]
pub struct SimulatedBoard {
    memory: Rc<BoardMemory>,
    debugger: Debugger,
    qemu: Child,
    _socket: Socket,
    screen: PhysRange,
    linger: Duration,
    has_linux: bool,
    /// Stores (address, value) that make interrupts pending or end that.
    raised: Vec<(u64, u32)>,
    darts: Vec<SimulatedDart>,
    /// The power domains that DARTs are in, each with the numbers of its DARTs.
    domains: Vec<(SimulatedPowerDomain, Vec<usize>)>,
    nvme: nvme::Nvme,
    usb: Option<UsbController>,
    port: SerialPort,
    /// Lines of QEMU's own serial port, if the board has it.
    serial: Option<Receiver<String>>,
    /// DRAM below the image, and CTRR's part of it.
    by_page: [PhysRange; 2],
    tables: Tables,
    outcome: BoardOutcome,
}

/// The state of the check of the first CPU's translation tables.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tables {
    /// The tables may not exist yet.
    Early,
    /// The guest starts: they are checked as soon as the machine stops.
    Due,
    /// They were checked, and these are the objections.
    Seen(Vec<String>),
}

impl SimulatedBoard {
    /// Puts `image` into the board's memory as m1n1 would, and starts it; it stands at its first
    /// instruction.
    ///
    /// # Errors
    ///
    /// QEMU is missing or does not start, or the tree cannot be completed.
    pub fn start(image: &[u8], mac: &Mac, parts: &BoardParts) -> Result<Self> {
        let memory = Rc::new(BoardMemory::create()?);
        load(&memory, image, mac, parts)?;
        let numbered = DARTS.iter().zip(mac.settings).enumerate();
        let darts: Vec<SimulatedDart> = numbered
            .map(|(number, ((base, ..), setting))| {
                SimulatedDart::new(&memory, number as u64, *base, setting).with_flaw(mac.flaw)
            })
            .collect();
        let domains = power_domains(&memory, mac, parts)?;
        let socket = Socket::new();
        let mut qemu = spawn(mac, &parts.qemu, &memory, &socket.0)?;
        let serial = qemu.stdout.take().map(lines_of);
        let debugger = match Debugger::connect(&socket.0) {
            Ok(debugger) => debugger,
            Err(error) => {
                end(&mut qemu);
                return Err(error);
            }
        };
        memory.forget_name();
        let port = SerialPort::new(&memory, &mac.typed);
        let usb = mac.has_usb.then(|| UsbController::new(&memory));
        let mut board = Self {
            memory,
            debugger,
            qemu,
            _socket: socket,
            screen: mac.screen,
            linger: mac.linger,
            has_linux: mac.has_linux,
            raised: Vec::new(),
            darts,
            domains,
            nvme: nvme::Nvme::default(),
            usb,
            port,
            serial,
            by_page: [PhysRange { start: DRAM, end: mac.load }, mac.ctrr],
            tables: Tables::Early,
            outcome: BoardOutcome::default(),
        };
        board.watch_registers()?;
        Ok(board)
    }

    /// Has the machine stop at every register that this process models.
    fn watch_registers(&mut self) -> Result<()> {
        self.debugger.watch(serial::TRANSMIT, 4)?;
        if self.port.is_typed_on() {
            self.debugger.watch_loads((serial::RECEIVE, 4), true)?;
        }
        self.debugger.watch(WATCHDOG_CONTROL, 4)?;
        for (address, bytes) in nvme::Nvme::watches() {
            self.debugger.watch(address, bytes)?;
        }
        for (address, bytes) in UsbController::watches().into_iter().filter(|_| self.usb.is_some())
        {
            self.debugger.watch(address, bytes)?;
        }
        for address in linux::LINE_WORDS.into_iter().filter(|_| self.has_linux) {
            self.debugger.watch(address, 4)?;
        }
        for dart in &self.darts {
            for (address, bytes) in dart.watches() {
                self.debugger.watch(address, bytes)?;
            }
            self.debugger.watch(dart.engine(), 4)?;
            if let Some(registers) = dart.unreadable() {
                self.debugger.watch_loads(registers, true)?;
            }
        }
        for (domain, _) in &self.domains {
            self.debugger.watch(domain.register, 4)?;
        }
        Ok(())
    }

    /// The machine's memory, to be read while the board runs.
    #[must_use]
    pub fn memory(&self) -> &Rc<BoardMemory> {
        &self.memory
    }

    /// Runs until `on_line` has seen enough, the machine resets itself, or `limit` is over; then
    /// QEMU is ended.
    ///
    /// # Errors
    ///
    /// QEMU ended by itself.
    pub fn run(
        mut self,
        limit: Duration,
        mut on_line: impl FnMut(&str) -> bool,
    ) -> Result<BoardOutcome> {
        let mut deadline = Instant::now() + limit;
        let mut has_seen_enough = false;
        let mut last_sign = Instant::now();
        self.debugger.go_on()?;
        while Instant::now() < deadline && (self.has_linux || last_sign.elapsed() < SILENCE) {
            let stop = self.debugger.stopped(Duration::from_millis(1))?;
            self.darts.iter_mut().for_each(|dart| dart.tick(&self.memory));
            let lines: Vec<String> = self.serial.iter().flat_map(Receiver::try_iter).collect();
            // `on_line` takes each line, also those behind the one that is enough.
            let mut is_enough = lines.iter().filter(|line| on_line(line)).count() > 0;
            self.outcome.lines.extend(lines);
            if let Some(line) = self.answer(stop)? {
                is_enough |= on_line(&line);
                self.outcome.lines.push(line);
            }
            if self.tables == Tables::Early && self.outcome.has_guest() {
                self.tables = Tables::Due;
            }
            if stop.is_some() && self.tables == Tables::Due {
                self.check_tables()?;
            }
            if is_enough && !has_seen_enough {
                has_seen_enough = true;
                deadline = Instant::now() + self.linger;
            }
            if self.outcome.is_reset {
                break;
            }
            if self.has_linux {
                self.poll_engines()?;
            }
            if stop.is_some() {
                last_sign = Instant::now();
                self.raise_interrupts()?;
                self.outcome.stops += 1;
                self.debugger.go_on()?;
            }
        }
        if !has_seen_enough && !self.outcome.is_reset {
            self.outcome.stands_at = self.debugger.interrupt().ok();
        }
        end(&mut self.qemu);
        Ok(self.sum_up())
    }

    /// Models the device that the machine has stopped for. Returns the line that a byte sent on the
    /// serial port ends.
    fn answer(&mut self, stop: Option<MachineStop>) -> Result<Option<String>> {
        match stop {
            None | Some(MachineStop::Other) => {}
            Some(MachineStop::Written(serial::TRANSMIT)) => {
                if self.memory.word(serial::POWER) >> 4 & 0xf != 0xf {
                    self.outcome
                        .violations
                        .push("a byte was sent on a serial port without power".to_owned());
                }
                let byte = self.memory.word(serial::TRANSMIT) as u8;
                return Ok(self.port.send(&self.memory, byte));
            }
            Some(MachineStop::Written(WATCHDOG_CONTROL)) => {
                let is_due = self.memory.word(WATCHDOG_ALARM) < WATCHDOG_SOON;
                let is_enabled = self.memory.word(WATCHDOG_CONTROL) & RESET_ENABLE != 0;
                self.outcome.is_reset = is_due && is_enabled;
            }
            Some(MachineStop::Written(address)) => {
                self.model_write(address);
                self.model_power(address)?;
            }
            Some(MachineStop::Read(serial::RECEIVE)) => self.port.has_been_read(&self.memory),
            Some(MachineStop::Read(address)) => {
                let read = self.darts.iter_mut().filter(|dart| dart.base == address);
                read.for_each(SimulatedDart::read);
            }
        }
        Ok(None)
    }

    /// The result of the run, once QEMU has ended.
    fn sum_up(&mut self) -> BoardOutcome {
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.violations.extend(self.darts.iter().flat_map(|dart| dart.violations.clone()));
        if let Some(usb) = &self.usb {
            outcome.violations.extend(usb.violations.clone());
            outcome.usb_events = usb.events;
        }
        match std::mem::replace(&mut self.tables, Tables::Early) {
            Tables::Early => {}
            Tables::Due => outcome.violations.push("the tables were never checked".to_owned()),
            Tables::Seen(wrong) => outcome.violations.extend(wrong),
        }
        outcome.invalidations = self.darts.iter().map(|dart| dart.invalidations).sum();
        outcome.copied_bytes = self.darts.iter().map(|dart| dart.copied_bytes).sum();
        outcome.refusals = self.darts.iter().map(|dart| dart.refusals).sum();
        outcome.screen = vec![0; self.screen.size() as usize];
        self.memory.read(self.screen.start, &mut outcome.screen);
        outcome.memory = Some(Rc::clone(&self.memory));
        outcome
    }

    /// Walks the first CPU's translation tables, once the guest's are in use.
    fn check_tables(&mut self) -> Result<()> {
        let [below_image, ctrr] = self.by_page;
        let [stage1, stage2] =
            ["TTBR0_EL2", "VTTBR_EL2"].map(|name| self.debugger.system_register(name));
        let (stage1, stage2) = (stage1?, stage2?);
        if stage2 != 0 {
            let judge =
                |stage, root| tables::judge(&self.memory, stage, root, below_image, ctrr).err();
            let wrong = [judge("stage 1 of EL2", stage1), judge("stage 2", stage2)];
            self.tables = Tables::Seen(wrong.into_iter().flatten().collect());
        }
        Ok(())
    }

    /// Models the write of a device's register.
    fn model_write(&mut self, address: u64) {
        let memory = &self.memory;
        if linux::LINE_WORDS.contains(&address) {
            return self.raised.extend(linux::port_pending(address, memory.word(address)));
        }
        if nvme::Nvme::watches().iter().any(|(watched, _)| *watched == address) {
            return self.nvme.ring(memory, address);
        }
        if let (Some(usb), Some(dart)) = (&mut self.usb, self.darts.get_mut(usb::DMA_DART))
            && UsbController::watches().iter().any(|(watched, _)| *watched == address)
        {
            return usb.written(memory, dart, address);
        }
        if let Some(dart) = self.darts.iter_mut().find(|dart| dart.engine() == address) {
            dart.ring(memory);
        }
        let is_at = |dart: &&mut SimulatedDart| {
            dart.watches().iter().any(|(watched, _)| *watched == address)
        };
        if let Some(dart) = self.darts.iter_mut().find(is_at) {
            dart.written(memory, address);
        }
    }

    /// Models the write of a power domain's register.
    fn model_power(&mut self, address: u64) -> Result<()> {
        let domain = self.domains.iter_mut().find(|(domain, _)| domain.register == address);
        let Some((domain, numbers)) = domain else { return Ok(()) };
        let supply = domain.written(&self.memory);
        for (_, dart) in
            self.darts.iter_mut().enumerate().filter(|(number, _)| numbers.contains(number))
        {
            let before = dart.unreadable();
            dart.supply(&self.memory, supply);
            if let Some(registers) = before.or(dart.unreadable()) {
                self.debugger.watch_loads(registers, dart.unreadable().is_some())?;
            }
        }
        Ok(())
    }

    /// Polls the doorbells of the DMA engines: a kernel may store to them at virtual addresses of
    /// its own, which no watchpoint matches. A fault of a copy raises the DART's interrupt as soon
    /// as the machine stands still.
    fn poll_engines(&mut self) -> Result<()> {
        let had_none = self.raised.is_empty();
        for (number, dart) in self.darts.iter_mut().enumerate() {
            if self.memory.word(dart.engine()) != 0 {
                let had_fault = dart.has_fault();
                dart.ring(&self.memory);
                if !had_fault && dart.has_fault() {
                    self.raised.push(linux::pending(number));
                }
            }
        }
        if had_none && !self.raised.is_empty() { self.debugger.ask_to_stop() } else { Ok(()) }
    }

    fn raise_interrupts(&mut self) -> Result<()> {
        for (register, bit) in self.raised.drain(..) {
            self.debugger.store_physical(register, bit)?;
        }
        Ok(())
    }
}

/// Lays out what m1n1 leaves in memory: the FDT, the stub, the image, and dirt where memory is not
/// cleared.
fn load(memory: &BoardMemory, image: &[u8], mac: &Mac, parts: &BoardParts) -> Result<()> {
    let blob = tree::completed(&parts.tree, mac)?;
    if blob.len() as u64 > FDT_BYTES {
        bail!("the completed device tree has {} bytes", blob.len());
    }
    // No loader promises that memory is clear either.
    for bank in mac.banks() {
        let last = bank.end - DIRT_BYTES as u64;
        let blocks = (bank.start.next_multiple_of(BLOCK)..last).step_by(BLOCK as usize);
        blocks.for_each(|block| memory.write(block, &[DIRT; DIRT_BYTES]));
        let first = bank.end.saturating_sub(DIRTY_PAGES_BYTES).max(bank.start);
        let pages = (first.next_multiple_of(PAGE)..last).step_by(PAGE as usize);
        let dirt = bank.start.next_multiple_of(PAGE).to_le_bytes().repeat(DIRTY_WORDS);
        pages.for_each(|page| memory.write(page, &dirt));
    }
    memory.write(FDT, &blob);
    memory.write(STUB.start, &parts.stub);
    let has_fiqs = u64::from(!mac.has_linux);
    let second_if = |flaw| if mac.flaw == Some(flaw) { 1 << 1 } else { 0 };
    let words = [
        (0x40, mac.load),
        (0x48, FDT),
        (0x50, mac.cpus),
        (0x58, mac.missing),
        (0x60, has_fiqs),
        (0x68, second_if(Flaw::KeepsCpu)),
        (0x70, second_if(Flaw::SleepsOn)),
    ];
    for (offset, value) in words {
        memory.write(STUB.start + offset, &u64::to_le_bytes(value));
    }
    memory.write(mac.load, image);
    // No loader promises that this is clear: the packed file's zeros are its own.
    let dirt = vec![DIRT; parts.dirty.size() as usize];
    memory.write(mac.load + parts.dirty.start, &dirt);
    mac.files.iter().for_each(|(address, bytes)| memory.write(*address, bytes));
    let has_few = mac.flaw == Some(Flaw::FewLines);
    memory.set_word(AIC_INFO, if has_few { AIC_LINES / 2 } else { AIC_LINES });
    Ok(())
}

/// The power domains that DARTs are in, each with the numbers of its DARTs.
fn power_domains(
    memory: &BoardMemory,
    mac: &Mac,
    parts: &BoardParts,
) -> Result<Vec<(SimulatedPowerDomain, Vec<usize>)>> {
    // The power manager works even where the blob is damaged.
    let sound = tree::completed(&parts.tree, &Mac { fault: None, ..mac.clone() })?;
    // Also where the tree has no power domains.
    memory.set_word(serial::POWER, 0xff);
    let mut domains = Vec::new();
    for tree::PowerDomain { register, label, is_on } in tree::power_registers(&sound, mac)? {
        let domain = SimulatedPowerDomain::new(memory, register, is_on);
        let of_domain =
            |number: &usize| DARTS.get(*number).is_some_and(|(_, own, _)| *own == label);
        let numbers: Vec<usize> = (0..DARTS.len()).filter(of_domain).collect();
        domains.extend((!numbers.is_empty()).then_some((domain, numbers)));
    }
    Ok(domains)
}

impl Drop for SimulatedBoard {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}
