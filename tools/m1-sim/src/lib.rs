//! A simulated M1: the image that a Mac would get, on QEMU's CPUs, with everything else played by this process.
//!
//! QEMU's virt machine has RAM where an M1 has its registers and its DRAM. A stub leaves the CPUs as m1n1 does;
//! a Mac's own device tree describes it all. The devices' registers are memory with watchpoints: each store stops
//! the machine until the device has been played. What it cannot show is Apple's
//! CPU and interrupt controller; FIQs come from QEMU's GIC, where the kernel does not want that for itself.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oche_boot::range::{BLOCK, PhysRange};

pub mod dart;
pub mod debugger;
pub mod linux;
pub mod memory;
pub mod nvme;
pub mod power;
mod property;
pub mod screen;
mod tables;
pub mod tree;

use dart::{Dart, Setting};
use debugger::{Debugger, Stop};
use memory::Memory;
use power::Domain;

/// Where m1n1's stub lies, and how much memory it keeps.
const STUB: PhysRange = PhysRange { start: 0x8_0400_0000, end: 0x8_0402_0000 };
/// Where the FDT lies: not even page aligned to anything larger.
const FDT: u64 = 0x8_0410_1000;
/// Bytes that m1n1 keeps for it.
const FDT_BYTES: u64 = 0x4_0000;
/// Where DRAM begins.
const DRAM: u64 = 0x8_0000_0000;
/// UART 0's status (`UTRSTAT`) and byte to send (`UTXH`). Source: m1n1 `src/uart_regs.h`.
const UART_STATUS: u64 = 0x2_3520_0010;
const UART_TRANSMIT: u64 = 0x2_3520_0020;
/// The register of the serial port's power domain. Source: Linux `t8103-pmgr.dtsi`, `ps_uart0`.
const UART_POWER: u64 = 0x2_3b70_0270;
/// The interrupt controller's `INFO`, which says how many lines it has. Source: Asahi documentation `hw/soc/aic.md`.
const AIC_INFO: u64 = 0x2_3b10_0004;
const AIC_LINES: u32 = 896;
/// The control register of watchdog 1, and the bit that has it reset the machine. Source: m1n1 `src/wdt.c`.
const WATCHDOG_CONTROL: u64 = 0x2_3d2b_001c;
const RESET_ENABLE: u32 = 1 << 2;
/// The end of the stub's words: offset of the table of CPUs, bytes of an entry, offset of the target in it.
const TABLE: u64 = 0x1000;
const TABLE_ENTRY: u64 = 64;
const TABLE_TARGET: u64 = 8;
/// How long a board without a kernel of its own may do nothing that a device would notice: it hangs.
const SILENCE: Duration = Duration::from_secs(60);
/// What is dirty of each 2 MiB of memory, where all that Oche sets up for itself or the guest begins.
const DIRT_BYTES: usize = 0x4000;
/// What a byte of memory is that nobody has cleared.
pub const DIRT: u8 = 0xa5;

/// Who is behind a DART: stream and name.
type Clients = &'static [(u32, &'static str)];

/// A DART that the board has, whatever the compiled tree says of it: address, the label of its power domain, and who is
/// behind it. The kernel's tree of this age has the PCIe ones alone; the rest is what newer trees say.
/// Source: `docs/m1.md`, "The DARTs".
pub const DARTS: [(u64, &str, Clients); 6] = [
    (0x6_8100_8000, "apcie_gp", &[]),
    (0x6_8200_8000, "apcie_gp", &[]),
    (0x3_82f0_0000, "atc0_usb", &[(0, "usb")]),
    (0x3_82f8_0000, "atc0_usb", &[(1, "usb")]),
    (0x2_3500_4000, "sio_cpu", &[(2, "dma-controller")]),
    (0x2_3130_4000, "disp0_fe", &[(0, "display")]),
];

/// One simulated Mac.
#[derive(Clone, Debug)]
pub struct Mac {
    /// CPUs, 1 to 8.
    pub cpus: u64,
    /// A bit for each CPU that never comes, whatever is written into its word.
    pub missing: u64,
    /// What the FDT calls memory. It need not begin or end anywhere even.
    pub memory: PhysRange,
    /// Further banks of it, behind the first.
    pub more_memory: Vec<PhysRange>,
    /// What `/reserved-memory` names.
    pub reserved: Vec<PhysRange>,
    /// What is wrong with the FDT.
    pub fault: Option<tree::Fault>,
    /// What the FDT says of the second CPU's release address, where that is wrong.
    pub wrong_release: Option<u64>,
    /// Where the image is loaded: a multiple of 2 MiB.
    pub load: u64,
    /// The framebuffer, outside `memory`.
    pub screen: PhysRange,
    /// Properties of `/chosen`.
    pub chosen: Vec<(String, String)>,
    /// What CTRR names: memory inside `memory`, which no block descriptor may overlap.
    pub ctrr: PhysRange,
    /// What m1n1 keeps for itself.
    pub kept: Vec<PhysRange>,
    /// How each of [`DARTS`] is found.
    pub settings: [Setting; DARTS.len()],
    /// The tree names QEMU's interrupt controller, timers and serial port too, which a stock kernel has drivers for, and
    /// devices behind the DARTs.
    pub has_linux: bool,
    /// More arguments for QEMU.
    pub arguments: Vec<OsString>,
    /// Nothing is where the tree says that `sio`'s DART and the NVMe are: accesses there end in bus errors.
    pub has_dead_devices: bool,
    /// How long the machine runs on when enough has been seen: time for what must not come.
    pub linger: Duration,
}

impl Default for Mac {
    fn default() -> Self {
        Self {
            cpus: 1,
            missing: 0,
            // A MacBook Air's first byte (AsahiLinux/m1n1#107), and an end that is no multiple of anything.
            memory: PhysRange { start: 0x8_019c_4000, end: 0x8_5d3e_4000 },
            more_memory: Vec::new(),
            reserved: Vec::new(),
            fault: None,
            wrong_release: None,
            load: 0x8_0800_0000,
            screen: PhysRange {
                start: 0x8_6df4_e000,
                end: 0x8_6df4_e000 + u64::from(screen::STRIDE * screen::HEIGHT),
            },
            chosen: Vec::new(),
            // As Icestorm's CTRR_A_LWR and CTRR_A_UPR read under m1n1. Source: Asahi documentation
            // `hw/cpu/system-register-dumps.md`.
            ctrr: PhysRange { start: 0x8_0485_c000, end: 0x8_0492_4000 },
            kept: vec![STUB, PhysRange { start: FDT, end: FDT + FDT_BYTES }],
            // As m1n1 leaves a Mac: the display's is locked, iBoot left USB in bypass.
            settings: [
                Setting::Idle,
                Setting::Idle,
                Setting::Bypass,
                Setting::Idle,
                Setting::Idle,
                Setting::Locked,
            ],
            has_linux: false,
            arguments: Vec::new(),
            has_dead_devices: false,
            linger: Duration::ZERO,
        }
    }
}

impl Mac {
    /// Where all CPUs' words are that firmware has them wait for.
    #[must_use]
    pub fn release_words(&self) -> PhysRange {
        let start = STUB.start + TABLE;
        PhysRange { start, end: start + self.cpus * TABLE_ENTRY }
    }

    /// All banks of memory.
    pub fn banks(&self) -> impl Iterator<Item = PhysRange> {
        std::iter::once(self.memory).chain(self.more_memory.iter().copied())
    }

    /// Where CPU `index` waits for an address, by the FDT.
    #[must_use]
    pub fn release_address(&self, index: u64) -> u64 {
        if let (1, Some(wrong)) = (index, self.wrong_release) {
            return wrong;
        }
        STUB.start + TABLE + index * TABLE_ENTRY + TABLE_TARGET
    }
}

/// What the board needs besides the image.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The flat stub.
    pub stub: Vec<u8>,
    /// A Mac's device tree, as compiled.
    pub tree: Vec<u8>,
    /// The symbols of Oche's ELF file between which memory is not cleared by any loader: BSS and stacks.
    pub dirty: PhysRange,
    /// What starts QEMU, as a program and its first arguments; the machine's own arguments follow.
    pub qemu: Vec<OsString>,
}

/// What a run left.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What came out of the serial port, in lines.
    pub lines: Vec<String>,
    /// The framebuffer's bytes.
    pub screen: Vec<u8>,
    /// Where the first CPU was when time was up.
    pub stands_at: Option<u64>,
    /// What no DART would have forgiven.
    pub violations: Vec<String>,
    /// Invalidations that DARTs carried out.
    pub invalidations: u64,
    /// Bytes that devices wrote.
    pub copied_bytes: u64,
    /// Accesses by devices that DARTs refused.
    pub refusals: u64,
    /// The watchdog was told to reset the machine.
    pub is_reset: bool,
    /// How often the machine was stopped to play a device.
    pub stops: u64,
    /// The memory as the machine left it; `None` where no board has run.
    pub memory: Option<Rc<Memory>>,
}

impl Outcome {
    /// Whether a line contains `text`.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }

    /// Whether the guest runs, or Oche says that it is about to.
    fn has_guest(&self) -> bool {
        self.lines.iter().any(|line| line.starts_with("guest: ") || line.contains("the guest starts: "))
    }
}

/// A board that runs.
#[derive(Debug)]
pub struct Board {
    memory: Rc<Memory>,
    debugger: Debugger,
    qemu: Child,
    _socket: Socket,
    screen: PhysRange,
    linger: Duration,
    has_linux: bool,
    /// What is to be stored where, so that interrupts become pending or no longer are.
    raised: Vec<(u64, u32)>,
    darts: Vec<Dart>,
    /// The power domains that DARTs are in, each with the numbers of its DARTs.
    domains: Vec<(Domain, Vec<usize>)>,
    nvme: nvme::Nvme,
    line: Vec<u8>,
    /// Lines of QEMU's own serial port, if the board has it.
    serial: Option<Receiver<String>>,
    /// DRAM below the image, and CTRR's part of it.
    by_page: [PhysRange; 2],
    tables: Tables,
    outcome: Outcome,
}

/// What is known of the translation tables of the first CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tables {
    /// They need not be there yet.
    Early,
    /// The guest starts: they are looked at as soon as the machine stops.
    Due,
    /// They were looked at, and this was wrong.
    Seen(Vec<String>),
}

impl Board {
    /// Puts `image` into the board's memory as m1n1 would, and starts it; it stands at its first instruction.
    ///
    /// # Errors
    ///
    /// QEMU is missing or does not start, or the tree cannot be completed.
    pub fn start(image: &[u8], mac: &Mac, parts: &Parts) -> Result<Self> {
        let memory = Rc::new(Memory::create()?);
        let blob = tree::completed(&parts.tree, mac)?;
        if blob.len() as u64 > FDT_BYTES {
            bail!("the completed device tree has {} bytes", blob.len());
        }
        // No loader promises that memory is clear either.
        for bank in mac.banks() {
            let last = bank.end - DIRT_BYTES as u64;
            let blocks = (bank.start.next_multiple_of(BLOCK)..last).step_by(BLOCK as usize);
            blocks.for_each(|block| memory.write(block, &[DIRT; DIRT_BYTES]));
        }
        memory.write(FDT, &blob);
        memory.write(STUB.start, &parts.stub);
        let has_fiqs = u64::from(!mac.has_linux);
        let words = [(0x40, mac.load), (0x48, FDT), (0x50, mac.cpus), (0x58, mac.missing), (0x60, has_fiqs)];
        for (offset, value) in words {
            memory.write(STUB.start + offset, &u64::to_le_bytes(value));
        }
        memory.write(mac.load, image);
        // No loader promises that this is clear: the packed file's zeros are its own.
        let dirt = vec![DIRT; parts.dirty.size() as usize];
        memory.write(mac.load + parts.dirty.start, &dirt);
        memory.set_word(UART_STATUS, 0b110);
        memory.set_word(AIC_INFO, AIC_LINES);
        let numbered = DARTS.iter().zip(mac.settings).enumerate();
        let darts: Vec<Dart> = numbered
            .map(|(number, ((base, ..), setting))| Dart::new(&memory, number as u64, *base, setting))
            .collect();
        // The power manager is there, whatever the blob says of it.
        let sound = tree::completed(&parts.tree, &Mac { fault: None, ..mac.clone() })?;
        // Also where the tree has no power domains.
        memory.set_word(UART_POWER, 0xff);
        let mut domains = Vec::new();
        for tree::PowerDomain { register, label, is_on } in tree::power_registers(&sound, mac)? {
            let domain = Domain::new(&memory, register, is_on);
            let of_domain = |number: &usize| DARTS.get(*number).is_some_and(|(_, own, _)| *own == label);
            let numbers: Vec<usize> = (0..DARTS.len()).filter(of_domain).collect();
            domains.extend((!numbers.is_empty()).then_some((domain, numbers)));
        }
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
            line: Vec::new(),
            serial,
            by_page: [PhysRange { start: DRAM, end: mac.load }, mac.ctrr],
            tables: Tables::Early,
            outcome: Outcome::default(),
        };
        board.debugger.watch(UART_TRANSMIT, 4)?;
        board.debugger.watch(WATCHDOG_CONTROL, 4)?;
        for (address, bytes) in nvme::Nvme::watches() {
            board.debugger.watch(address, bytes)?;
        }
        for address in linux::LINE_WORDS.into_iter().filter(|_| mac.has_linux) {
            board.debugger.watch(address, 4)?;
        }
        for dart in &board.darts {
            for (address, bytes) in dart.watches() {
                board.debugger.watch(address, bytes)?;
            }
            board.debugger.watch(dart.engine(), 4)?;
            if let Some(registers) = dart.unreadable() {
                board.debugger.watch_loads(registers, true)?;
            }
        }
        for (domain, _) in &board.domains {
            board.debugger.watch(domain.register, 4)?;
        }
        Ok(board)
    }

    /// The machine's memory, for whoever looks at it while the board runs.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Runs until `on_line` has seen enough, the machine resets itself, or `limit` is over; then it is gone.
    ///
    /// # Errors
    ///
    /// QEMU ended by itself.
    pub fn run(mut self, limit: Duration, mut on_line: impl FnMut(&str) -> bool) -> Result<Outcome> {
        let mut deadline = Instant::now() + limit;
        let mut has_seen_enough = false;
        let mut last_sign = Instant::now();
        self.debugger.go_on()?;
        while Instant::now() < deadline && (self.has_linux || last_sign.elapsed() < SILENCE) {
            let stop = self.debugger.stopped(Duration::from_millis(1))?;
            self.darts.iter_mut().for_each(|dart| dart.tick(&self.memory));
            let heard: Vec<String> = self.serial.iter().flat_map(Receiver::try_iter).collect();
            // Each is to be heard, also behind the one that is enough.
            let mut is_enough = heard.iter().filter(|line| on_line(line)).count() > 0;
            self.outcome.lines.extend(heard);
            match stop {
                None => {}
                Some(Stop::Written(UART_TRANSMIT)) => {
                    if self.memory.word(UART_POWER) >> 4 & 0xf != 0xf {
                        self.outcome
                            .violations
                            .push("a byte was sent on a serial port without power".to_owned());
                    }
                    if let Some(line) = self.hear(self.memory.word(UART_TRANSMIT) as u8) {
                        is_enough |= on_line(&line);
                        self.outcome.lines.push(line);
                    }
                }
                Some(Stop::Written(WATCHDOG_CONTROL)) => {
                    self.outcome.is_reset = self.memory.word(WATCHDOG_CONTROL) & RESET_ENABLE != 0;
                }
                Some(Stop::Written(address)) => {
                    self.play(address);
                    self.play_power(address)?;
                }
                Some(Stop::Read(address)) => {
                    let read = self.darts.iter_mut().filter(|dart| dart.base == address);
                    read.for_each(Dart::read);
                }
                Some(Stop::Other) => {}
            }
            if self.tables == Tables::Early && self.outcome.has_guest() {
                self.tables = Tables::Due;
            }
            if stop.is_some() && self.tables == Tables::Due {
                self.look_at_tables()?;
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
        self.outcome.violations.extend(self.darts.iter().flat_map(|dart| dart.violations.clone()));
        match std::mem::replace(&mut self.tables, Tables::Early) {
            Tables::Early => {}
            Tables::Due => self.outcome.violations.push("the tables were never looked at".to_owned()),
            Tables::Seen(wrong) => self.outcome.violations.extend(wrong),
        }
        self.outcome.invalidations = self.darts.iter().map(|dart| dart.invalidations).sum();
        self.outcome.copied_bytes = self.darts.iter().map(|dart| dart.copied_bytes).sum();
        self.outcome.refusals = self.darts.iter().map(|dart| dart.refusals).sum();
        let mut screen = vec![0; self.screen.size() as usize];
        self.memory.read(self.screen.start, &mut screen);
        self.outcome.screen = screen;
        self.outcome.memory = Some(Rc::clone(&self.memory));
        Ok(std::mem::take(&mut self.outcome))
    }

    /// Walks the first CPU's translation tables, once the guest's are in use.
    fn look_at_tables(&mut self) -> Result<()> {
        let [below_image, ctrr] = self.by_page;
        let [stage1, stage2] = ["TTBR0_EL2", "VTTBR_EL2"].map(|name| self.debugger.system_register(name));
        let (stage1, stage2) = (stage1?, stage2?);
        if stage2 != 0 {
            let judge = |stage, root| tables::judge(&self.memory, stage, root, below_image, ctrr).err();
            let wrong = [judge("stage 1 of EL2", stage1), judge("stage 2", stage2)];
            self.tables = Tables::Seen(wrong.into_iter().flatten().collect());
        }
        Ok(())
    }

    /// A device's register was written.
    fn play(&mut self, address: u64) {
        let memory = &self.memory;
        if linux::LINE_WORDS.contains(&address) {
            return self.raised.extend(linux::port_pending(address, memory.word(address)));
        }
        if nvme::Nvme::watches().iter().any(|(watched, _)| *watched == address) {
            return self.nvme.ring(memory, address);
        }
        if let Some(dart) = self.darts.iter_mut().find(|dart| dart.engine() == address) {
            dart.ring(memory);
        }
        let is_at = |dart: &&mut Dart| dart.watches().iter().any(|(watched, _)| *watched == address);
        if let Some(dart) = self.darts.iter_mut().find(is_at) {
            dart.written(memory, address);
        }
    }

    /// A power domain's register was written.
    fn play_power(&mut self, address: u64) -> Result<()> {
        let domain = self.domains.iter_mut().find(|(domain, _)| domain.register == address);
        let Some((domain, numbers)) = domain else { return Ok(()) };
        let supply = domain.written(&self.memory);
        for (_, dart) in self.darts.iter_mut().enumerate().filter(|(number, _)| numbers.contains(number)) {
            let before = dart.unreadable();
            dart.supply(&self.memory, supply);
            if let Some(registers) = before.or(dart.unreadable()) {
                self.debugger.watch_loads(registers, dart.unreadable().is_some())?;
            }
        }
        Ok(())
    }

    /// Looks after what a kernel may have stored at virtual addresses of its own, which no watchpoint sees: the bells of
    /// the DMA engines. A fault that a copy meets raises the DART's interrupt as soon as the machine stands still.
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

    /// Takes a byte; gives the line that it ends.
    fn hear(&mut self, byte: u8) -> Option<String> {
        match byte {
            b'\r' => None,
            b'\n' => {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                Some(line)
            }
            _ => {
                self.line.push(byte);
                None
            }
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}

fn spawn(mac: &Mac, qemu: &[OsString], memory: &Memory, socket: &Path) -> Result<Child> {
    let (program, first) = qemu.split_first().context("nothing says how QEMU is started")?;
    let mut line = Command::new(program);
    line.args(first);
    line.args(["-M", "virt,virtualization=on,gic-version=3,memory-backend=ram"]);
    let cpu = if mac.has_linux { linux::CPU } else { "max,pauth-impdef=on" };
    line.args(["-cpu", cpu, "-smp", &mac.cpus.to_string()]);
    line.args(["-m", &format!("{}M", memory::BYTES >> 20)]);
    line.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot", "-S"]);
    line.args(if mac.has_linux { &linux::QEMU[..] } else { &["-serial", "none"] });
    line.arg("-object").arg(format!(
        "memory-backend-file,id=ram,size={}M,share=on,mem-path={}",
        memory::BYTES >> 20,
        memory.path().display()
    ));
    line.arg("-device").arg(format!("loader,addr={:#x},cpu-num=0", STUB.start));
    line.arg("-chardev").arg(format!("socket,id=debugger,server=on,wait=off,path={}", socket.display()));
    line.args(["-gdb", "chardev:debugger"]).args(&mac.arguments);
    let output = if mac.has_linux { Stdio::piped() } else { Stdio::null() };
    line.stdin(Stdio::null()).stdout(output).stderr(Stdio::inherit());
    line.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Reads lines in a thread of its own until nobody writes any more.
fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Ends a child, by its own handle, and collects it.
fn end(child: &mut Child) {
    // Both fail only for a child that is gone and collected already.
    let _ = child.kill();
    let _ = child.wait();
}

/// A path for a socket, removed with the value.
#[derive(Debug)]
struct Socket(PathBuf);

impl Socket {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("oche-gdb.{}.{number}", std::process::id())))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already is as good as removed.
        let _ = fs::remove_file(&self.0);
    }
}
