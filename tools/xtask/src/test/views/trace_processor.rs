//! Perfetto's own trace processor, in a browser without a screen: it loads a trace and answers
//! queries.
//!
//! Numbers of the messages: `protos/perfetto/trace_processor/trace_processor.proto` of Perfetto.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use prost::Message;

use super::devtools::Browser;
use crate::perfetto::Perfetto;

/// Longest time to wait for all answers, in seconds; it takes two.
const LIMIT: u32 = 120;

/// The values of an answer, by row.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    columns: Vec<String>,
    cells: Vec<Cell>,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

/// A row of an answer.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    columns: &'a [String],
    cells: &'a [Cell],
}

impl Table {
    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let cells = self.cells.chunks(self.columns.len().max(1));
        cells.map(|cells| Row { columns: &self.columns, cells })
    }
}

impl Row<'_> {
    fn cell(&self, column: &str) -> Result<&Cell> {
        let place = self.columns.iter().position(|name| name == column);
        place
            .and_then(|place| self.cells.get(place))
            .with_context(|| format!("the answer has no column `{column}`"))
    }

    /// The text in `column`; `-` for none.
    pub(super) fn text(&self, column: &str) -> Result<String> {
        match self.cell(column)? {
            Cell::Text(text) => Ok(text.clone()),
            Cell::Null => Ok("-".into()),
            other => bail!("`{column}` is {other:?} and no text"),
        }
    }

    /// The whole number in `column`.
    pub(super) fn number(&self, column: &str) -> Result<u64> {
        match self.cell(column)? {
            Cell::Integer(number) => Ok(u64::try_from(*number)?),
            other => bail!("`{column}` is {other:?} and no whole number"),
        }
    }

    /// The number in `column`, `unit` times as much, to the next whole number; 0 for none.
    pub(super) fn scaled(&self, column: &str, unit: f64) -> Result<u64> {
        match self.cell(column)? {
            Cell::Integer(number) => Ok((*number as f64 * unit).round() as u64),
            Cell::Real(number) => Ok((number * unit).round() as u64),
            Cell::Null => Ok(0),
            other @ Cell::Text(_) => bail!("`{column}` is {other:?} and no number"),
        }
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self.columns.iter().zip(self.cells)).finish()
    }
}

/// Loads the Perfetto trace `trace` and asks `queries` of it; keeps its files in `folder`.
///
/// # Errors
///
/// The trace processor does not take the trace or a query, or does not answer in time.
pub(super) fn ask(
    perfetto: &Perfetto,
    trace: Vec<u8>,
    queries: &[&str],
    folder: &Path,
) -> Result<Vec<Table>> {
    let requests = folder.join("requests");
    fs::write(&requests, Stream::asking(trace, queries).encode_to_vec())?;
    let mut browser = Browser::start(folder)?;
    browser.value("document.body.innerHTML = '<input type=file multiple>'")?;
    let files = perfetto.engine.iter().chain([&requests]).map(fs::canonicalize);
    browser.choose_files("input", &files.collect::<std::io::Result<Vec<_>>>()?)?;
    browser.value(include_str!("trace_processor.js"))?;
    let replies = browser.bytes(&format!("replies({LIMIT})"))?;
    let replies = Stream::decode(&*replies).context("what the trace processor replies")?;
    let tables = replies.tables()?;
    if tables.len() != queries.len() {
        bail!("the trace processor answers {} of {} queries", tables.len(), queries.len());
    }
    Ok(tables)
}

impl Stream {
    fn asking(trace: Vec<u8>, queries: &[&str]) -> Self {
        let append = Rpc { append_trace_data: Some(trace), ..Rpc::calling(Rpc::APPEND) };
        let queries = queries.iter().map(|query| Rpc {
            query_args: Some(QueryArgs { sql_query: Some((*query).to_owned()) }),
            ..Rpc::calling(Rpc::QUERY)
        });
        let calls = [append, Rpc::calling(Rpc::FINALIZE)].into_iter().chain(queries);
        let number = |(seq, call)| Rpc { seq: Some(seq), ..call };
        Self { msg: (0..).zip(calls).map(number).collect() }
    }

    /// The answers to queries, in their order.
    fn tables(self) -> Result<Vec<Table>> {
        let (mut tables, mut open) = (Vec::new(), Table::default());
        for reply in self.msg {
            let failures = [
                reply.fatal_error,
                reply.append_result.and_then(|result| result.error),
                reply.finalize_result.and_then(|result| result.error),
                reply.query_result.as_ref().and_then(|result| result.error.clone()),
            ];
            let failure = failures.into_iter().flatten().find(|error| !error.is_empty());
            if let Some(error) = failure {
                bail!("the trace processor refuses request {}: {error}", reply.seq.unwrap_or(0));
            }
            let Some(result) = reply.query_result else { continue };
            open.columns.extend(result.column_names);
            for batch in result.batch {
                batch.append_to(&mut open.cells)?;
                if batch.is_last_batch == Some(true) {
                    tables.push(std::mem::take(&mut open));
                }
            }
        }
        Ok(tables)
    }
}

impl CellsBatch {
    fn append_to(&self, cells: &mut Vec<Cell>) -> Result<()> {
        let mut numbers = self.varint_cells.iter();
        let mut reals = self.float64_cells.iter();
        // Each text ends with a zero byte.
        let mut texts = self.string_cells.as_deref().unwrap_or_default().split('\0');
        for kind in &self.cells {
            let cell = match *kind {
                Self::NULL => Some(Cell::Null),
                Self::INTEGER => numbers.next().copied().map(Cell::Integer),
                Self::REAL => reals.next().copied().map(Cell::Real),
                Self::TEXT => texts.next().map(|text| Cell::Text(text.to_owned())),
                other => bail!("the trace processor gives a value of kind {other}"),
            };
            cells.push(cell.context("the trace processor gives fewer values than it says")?);
        }
        Ok(())
    }
}

/// `TraceProcessorRpcStream`.
#[derive(Clone, PartialEq, Message)]
struct Stream {
    #[prost(message, repeated, tag = "1")]
    msg: Vec<Rpc>,
}

/// `TraceProcessorRpc`.
#[derive(Clone, PartialEq, Message)]
struct Rpc {
    #[prost(int64, optional, tag = "1")]
    seq: Option<i64>,
    #[prost(int32, optional, tag = "2")]
    request: Option<i32>,
    #[prost(string, optional, tag = "5")]
    fatal_error: Option<String>,
    #[prost(bytes = "vec", optional, tag = "101")]
    append_trace_data: Option<Vec<u8>>,
    #[prost(message, optional, tag = "103")]
    query_args: Option<QueryArgs>,
    #[prost(message, optional, tag = "201")]
    append_result: Option<AppendTraceDataResult>,
    #[prost(message, optional, tag = "203")]
    query_result: Option<QueryResult>,
    #[prost(message, optional, tag = "212")]
    finalize_result: Option<FinalizeDataResult>,
}

impl Rpc {
    /// `TPM_APPEND_TRACE_DATA`.
    const APPEND: i32 = 1;
    /// `TPM_FINALIZE_TRACE_DATA`.
    const FINALIZE: i32 = 2;
    /// `TPM_QUERY_STREAMING`.
    const QUERY: i32 = 3;

    fn calling(method: i32) -> Self {
        Self { request: Some(method), ..Self::default() }
    }
}

/// `QueryArgs`.
#[derive(Clone, PartialEq, Message)]
struct QueryArgs {
    #[prost(string, optional, tag = "1")]
    sql_query: Option<String>,
}

/// `AppendTraceDataResult`.
#[derive(Clone, PartialEq, Message)]
struct AppendTraceDataResult {
    #[prost(string, optional, tag = "2")]
    error: Option<String>,
}

/// `FinalizeDataResult`.
#[derive(Clone, PartialEq, Message)]
struct FinalizeDataResult {
    #[prost(string, optional, tag = "1")]
    error: Option<String>,
}

/// `QueryResult`.
#[derive(Clone, PartialEq, Message)]
struct QueryResult {
    #[prost(string, repeated, tag = "1")]
    column_names: Vec<String>,
    #[prost(string, optional, tag = "2")]
    error: Option<String>,
    #[prost(message, repeated, tag = "3")]
    batch: Vec<CellsBatch>,
}

/// `QueryResult.CellsBatch`.
#[derive(Clone, PartialEq, Message)]
struct CellsBatch {
    #[prost(int32, repeated, tag = "1")]
    cells: Vec<i32>,
    #[prost(int64, repeated, tag = "2")]
    varint_cells: Vec<i64>,
    #[prost(double, repeated, tag = "3")]
    float64_cells: Vec<f64>,
    #[prost(string, optional, tag = "5")]
    string_cells: Option<String>,
    #[prost(bool, optional, tag = "6")]
    is_last_batch: Option<bool>,
}

impl CellsBatch {
    /// `CELL_NULL`.
    const NULL: i32 = 1;
    /// `CELL_VARINT`.
    const INTEGER: i32 = 2;
    /// `CELL_FLOAT64`.
    const REAL: i32 = 3;
    /// `CELL_STRING`.
    const TEXT: i32 = 4;
}
