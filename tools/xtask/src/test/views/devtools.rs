//! A browser without a screen, driven by Chromium's DevTools protocol over two pipes.
//!
//! Source of the messages: the DevTools protocol (`chromedevtools.github.io/devtools-protocol`); of
//! the pipes, file descriptors 3 and 4 with a zero byte after each message: Chromium,
//! `content/browser/devtools/devtools_pipe_handler.cc`.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A page in the browser.
pub(super) struct Browser {
    chromium: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    profile: PathBuf,
    session: String,
    sent: u64,
    /// Events that came and were not asked for.
    events: VecDeque<Value>,
}

impl Browser {
    /// Starts Chromium with a profile in `folder` and an empty page.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let profile = folder.join("chromium");
        let _ = fs::remove_dir_all(&profile);
        let of = crate::pictures::browser(&profile);
        // The protocol's descriptors are this process's two pipes; the log goes to a file.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" --remote-debugging-pipe 3<&0 4>&1 </dev/null >&2", "sh"]);
        shell.arg(of.get_program()).args(of.get_args());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        shell.stderr(fs::File::create(folder.join("chromium.log"))?);
        let mut chromium = shell.spawn().context("cannot start chromium")?;
        let to = chromium.stdin.take().context("a pipe to chromium")?;
        let from = BufReader::new(chromium.stdout.take().context("a pipe from chromium")?);
        let (session, events) = (String::new(), VecDeque::new());
        let mut browser = Self { chromium, to, from, profile, session, sent: 0, events };
        let target = browser.ask("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.ask("Target.attachToTarget", &attach)?;
        browser.session = session["sessionId"].as_str().context("a session")?.to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            browser.ask(domain, &json!({}))?;
        }
        Ok(browser)
    }

    /// Opens the file at `path` in a window of `width` by `height` CSS pixels, and waits until the
    /// page says that it is ready.
    pub(super) fn open(&mut self, path: &Path, (width, height): (u32, u32)) -> Result<()> {
        let (width, height) = (json!(width), json!(height));
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", &size)?;
        self.ask("Page.navigate", &json!({ "url": "about:blank" }))?;
        self.ask("Page.navigate", &json!({ "url": format!("file://{}", path.display()) }))?;
        let ready = "new Promise(done => { const look = () => document.body?.dataset.ready ? done(true) : \
                     setTimeout(look, 20); setTimeout(() => done(false), 30000); look(); })";
        for _ in 0..50 {
            // The page before it may still be there.
            if self.value("location.protocol")? == "file:" {
                break;
            }
        }
        if self.value(ready)? != Value::Bool(true) {
            bail!("the report's script did not finish");
        }
        Ok(())
    }

    /// The value of `script`, a promise's when it is kept.
    pub(super) fn value(&mut self, script: &str) -> Result<Value> {
        let asked = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", &asked)?;
        if let Some(wrong) = answer.get("exceptionDetails") {
            bail!("`{script}` fails in the browser: {wrong}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// The bytes that `script` gives in base 64.
    pub(super) fn bytes(&mut self, script: &str) -> Result<Vec<u8>> {
        let answer = self.value(script)?;
        let text = answer.as_str().with_context(|| format!("`{script}` gives no text"))?;
        from_base64(text).with_context(|| format!("`{script}` does not give base 64"))
    }

    /// Chooses `files`, by absolute paths, in the file input that `selector` chooses.
    pub(super) fn choose_files(&mut self, selector: &str, files: &[PathBuf]) -> Result<()> {
        let script = format!("document.querySelector({selector:?})");
        let input = self.ask("Runtime.evaluate", &json!({ "expression": script }))?;
        let asked = json!({ "files": files, "objectId": input["result"]["objectId"] });
        self.ask("DOM.setFileInputFiles", &asked).map(|_| ())
    }

    /// Fails unless `script` is true; `what` should hold.
    pub(super) fn expect(&mut self, what: &str, script: &str) -> Result<()> {
        match self.value(script)? {
            Value::Bool(true) => Ok(()),
            other => bail!("in the browser's page {what} does not hold: `{script}` is {other}"),
        }
    }

    /// Scrolls what `selector` chooses into view; its left, top, width and height.
    fn place(&mut self, selector: &str) -> Result<[f64; 4]> {
        let script = format!(
            "(() => {{ const one = document.querySelector({selector:?}); \
             one.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const box = one.getBoundingClientRect(); \
             return [box.left, box.top, box.width, box.height]; }})()"
        );
        let found = self.value(&script)?;
        serde_json::from_value(found).with_context(|| format!("the page has no {selector}"))
    }

    fn mouse(&mut self, kind: &str, x: f64, y: f64, more: &Value) -> Result<()> {
        let mut event = json!({ "type": kind, "x": x, "y": y });
        if let (Some(event), Some(more)) = (event.as_object_mut(), more.as_object()) {
            event.extend(more.clone());
        }
        self.ask("Input.dispatchMouseEvent", &event).map(|_| ())
    }

    /// Drags over what `selector` chooses, between two fractions of its width.
    pub(super) fn drag(&mut self, selector: &str, from: f64, to: f64) -> Result<()> {
        let [left, top, width, height] = self.place(selector)?;
        let at = |part: f64| (left + width * part, top + height / 2.0);
        let held = json!({ "button": "left", "buttons": 1, "clickCount": 1 });
        self.mouse("mousePressed", at(from).0, at(from).1, &held)?;
        self.mouse("mouseMoved", at(f64::midpoint(from, to)).0, at(to).1, &held)?;
        self.mouse("mouseMoved", at(to).0, at(to).1, &held)?;
        self.mouse(
            "mouseReleased",
            at(to).0,
            at(to).1,
            &json!({ "button": "left", "clickCount": 1 }),
        )
    }

    /// Turns the wheel by a notch over the middle of what `selector` chooses: up for less than 0.
    pub(super) fn wheel(&mut self, selector: &str, delta: i32) -> Result<()> {
        let [left, top, width, height] = self.place(selector)?;
        let by = json!({ "deltaX": 0, "deltaY": delta });
        self.mouse("mouseWheel", left + width / 2.0, top + height / 2.0, &by)
    }

    /// Clicks on what `selector` chooses.
    pub(super) fn click(&mut self, selector: &str) -> Result<()> {
        let [left, top, width, height] = self.place(selector)?;
        let (x, y) = (left + width / 2.0, top + height / 2.0);
        let held = json!({ "button": "left", "clickCount": 1 });
        self.mouse("mousePressed", x, y, &held)?;
        self.mouse("mouseReleased", x, y, &held)
    }

    /// Presses `key`, which types `text`, if anything.
    pub(super) fn press(&mut self, key: &str, text: &str) -> Result<()> {
        let mut event = json!({ "type": "keyDown", "key": key });
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.ask("Input.dispatchKeyEvent", &event)?;
        self.ask("Input.dispatchKeyEvent", &json!({ "type": "keyUp", "key": key })).map(|_| ())
    }

    /// Has the page look as in print, or in the dark.
    pub(super) fn emulate(&mut self, media: &str, scheme: &str) -> Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let media = json!({ "media": media, "features": features });
        self.ask("Emulation.setEmulatedMedia", &media).map(|_| ())
    }

    /// Writes a picture of the page, `height` pixels of it, to `path`.
    pub(super) fn picture(&mut self, path: &Path, (width, height): (u32, u32)) -> Result<()> {
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let asked = json!({ "format": "png", "clip": clip, "captureBeyondViewport": true });
        let answer = self.ask("Page.captureScreenshot", &asked)?;
        let text = answer["data"].as_str().context("the browser makes no picture")?;
        fs::write(path, from_base64(text).context("a picture in base 64")?)?;
        Ok(())
    }

    /// What the page printed to the console, threw, or tried to load.
    pub(super) fn complaints(&mut self) -> Vec<String> {
        // One more answer: the events before it are there.
        let _ = self.value("1");
        let is_complaint = |event: &Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded") => true,
            Some("Network.requestWillBeSent") => {
                let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
                !url.starts_with("file:") && !url.starts_with("about:")
            }
            _ => false,
        };
        self.events.drain(..).filter(is_complaint).map(|event| event.to_string()).collect()
    }

    fn ask(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(message.to_string().as_bytes())?;
        self.to.write_all(&[0])?;
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes)?;
            if bytes.pop() != Some(0) {
                bail!("chromium ended at {method}; its words are in {}", self.log());
            }
            let answer: Value = serde_json::from_slice(&bytes)?;
            if answer["id"] != self.sent {
                self.events.push_back(answer);
            } else if let Some(error) = answer.get("error") {
                bail!("chromium refuses {method}: {error}");
            } else {
                return Ok(answer["result"].clone());
            }
        }
    }

    fn log(&self) -> String {
        self.profile.with_extension("log").display().to_string()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session.clear();
        let _ = self.ask("Browser.close", &json!({}));
        let _ = self.chromium.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

/// The bytes of `text` in base 64.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let digit = DIGITS.iter().position(|digit| *digit == letter)?;
        (bits, count) = (bits << 6 | digit as u32, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::from_base64;

    #[test]
    fn base_64_is_read() {
        assert_eq!(from_base64("T2NoZQ==").as_deref(), Some(b"Oche".as_slice()));
        assert_eq!(from_base64("T2No").as_deref(), Some(b"Och".as_slice()));
        assert_eq!(from_base64("T2!o"), None);
    }
}
