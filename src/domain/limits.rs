//! The bounds of everything that grows with what a caller sends. One place, so that a reviewer can read them together.

/// Characters in the name of a dataset, job or model.
pub const NAME_CHARS: usize = 120;
/// Characters of a name in the registry of models, and of an alias.
pub const REGISTERED_NAME_CHARS: usize = 64;
/// Aliases of one name.
pub const ALIASES: i64 = 100;
/// Columns of a dataset.
pub const COLUMNS: usize = 65_536;
/// Characters in the name of a column.
pub const COLUMN_NAME_CHARS: usize = 200;
/// Bytes of one line of a text file.
pub const LINE_BYTES: usize = 16 << 20;
/// Rows of a file that are looked at before its columns of texts are taken for numbers or categories.
pub const LOOK_ROWS: usize = 10_000;
/// Cells that are looked at, whatever the number of rows.
pub const LOOK_CELLS: usize = 2_000_000;
/// Bytes of their texts.
pub const LOOK_TEXT_BYTES: usize = 32 << 20;
/// Bytes of one text of a typed file that are looked at; a longer one is no level of a category anyway.
pub const TEXT_CELL_BYTES: usize = 1_024;
/// Bytes of an Arrow or Parquet file that are held decompressed at once: one page a column, or one batch.
pub const TABLE_BYTES: u64 = 192 << 20;
/// Bytes of the description of an Arrow or Parquet file, or of one of its batches.
pub const TABLE_METADATA_BYTES: usize = 16 << 20;
/// Batches of an Arrow file, dictionaries included.
pub const ARROW_MESSAGES: usize = 1 << 20;
/// Values of one page of a Parquet file.
pub const PARQUET_PAGE_VALUES: u64 = 1 << 24;
/// How deep the columns of a Parquet file may be nested.
pub const PARQUET_NESTING: usize = 64;
/// Cells that are written at once into a file for download.
pub const EXPORT_BLOCK_CELLS: usize = 1 << 18;
/// Cells of one row group of a Parquet file for download, which is held in memory until it is complete.
pub const EXPORT_GROUP_CELLS: usize = 1 << 22;
/// Entries of a ZIP archive.
pub const ZIP_ENTRIES: usize = 250_000;
/// Bytes of the names and remarks of its entries together.
pub const ZIP_NAME_BYTES: usize = 64 << 20;
/// Bytes of one image in an archive, as it is stored.
pub const IMAGE_FILE_BYTES: u64 = 64 << 20;
/// Pixels of a side of an image before it is brought to its size.
pub const IMAGE_SIDE: u32 = 8_192;
/// Bytes that one image may take in memory while it is decoded.
pub const IMAGE_DECODED_BYTES: u64 = 128 << 20;
/// Pixels of a side of an image after it was brought to its size.
pub const IMAGE_RESIZED_SIDE: u32 = 1_024;
/// Bytes of the header of an NPY file.
pub const NPY_HEADER_BYTES: usize = 64 << 10;
/// Entries of an NPZ file; it takes one or two arrays, and of more their names are told.
pub const NPZ_ENTRIES: usize = 256;
/// Bytes of the header of a safetensors file that holds rows.
pub const SAFETENSORS_HEADER_BYTES: usize = 1 << 20;
/// Bytes of all declarations of an ARFF file.
pub const ARFF_HEADER_BYTES: usize = 16 << 20;
/// Faults that one refusal lists; the rest are counted.
pub const FAULTS_LISTED: usize = 20;
/// Distinct values that a profile counts in one column before it says "at least".
pub const DISTINCT_VALUES: usize = 10_000;
/// Distinct values that a profile holds over all columns together.
pub const DISTINCT_VALUES_IN_ALL: usize = 4_000_000;

/// Units in one layer of a network.
pub const LAYER_UNITS: u32 = 65_536;
/// Layers of a network between the input and the code.
pub const LAYERS: usize = 16;
/// Channels of one convolution.
pub const CHANNELS: u32 = 1024;
/// Side of the window of a convolution.
pub const KERNEL: u32 = 11;
/// Parameters of a network; a model above this is refused before it is queued.
pub const PARAMETERS: u64 = 200_000_000;
/// Bytes of what a model file says of itself, before its tensors; the crate that reads it allows as many.
pub const MODEL_HEADER_BYTES: usize = 100_000_000;
/// Columns that a model card lists as a text. As JSON it lists all.
pub const CARD_COLUMNS: usize = 200;
/// Levels of a categorical or ordinal column.
pub const LEVELS: u64 = 256;
/// Knots of the way from a column to a normal distribution.
pub const QUANTILE_KNOTS: usize = 1_000;
/// Rows that quantiles of a column are found from, and codes that a sampler is fitted to.
pub const SAMPLED_ROWS: usize = 100_000;
/// Values of all columns together that quantiles are found from, as far as that leaves a column `QUANTILE_KNOTS`.
pub const SAMPLED_VALUES: usize = 32 << 20;
/// Epochs of one job.
pub const EPOCHS: u32 = 100_000;
/// Rows in one batch of training.
pub const BATCH_ROWS: u32 = 65_536;
/// Batches whose gradients make one step together.
pub const ACCUMULATED: u32 = 1_024;

/// Bytes of a JSON body that is not inference.
pub const JSON_BODY_BYTES: usize = 1 << 20;
/// Bytes of a body of inference.
pub const INFERENCE_BODY_BYTES: usize = 64 << 20;
/// Tables of questions (CSV, JSON Lines, Arrow, Parquet) that are read at once.
pub const TABLE_BODIES: usize = 2;
/// KiB of all bodies of inference that are held at once; what exceeds that is refused until there is room again.
pub const INFERENCE_BODIES_KIB: u32 = 256 << 10;
/// Bytes that a body of inference is counted for which does not announce its length.
pub const UNANNOUNCED_BODY_BYTES: usize = 16 << 20;
/// Rows in one question of inference.
pub const INFERENCE_ROWS: usize = 65_536;
/// Values in one answer of inference (rows times columns).
pub const INFERENCE_VALUES: usize = 64 << 20;
/// How often rows go through a model in one question (rows times steps of a chain, or rounds of imputation).
pub const INFERENCE_PASSES: u64 = 2_000_000;
/// Codes that are drawn for new rows of which some values are given: the least and the most.
pub const CONDITIONAL_CODES: (usize, usize) = (4_096, 65_536);
/// Rows of one question that go through a model at once where they share draws.
pub const INFERENCE_BATCH_ROWS: usize = 4_096;
/// Numbers that one layer holds of the rows which a job of inference puts through a model at once.
pub const INFERENCE_BLOCK_VALUES: usize = 16 << 20;
/// Tensors of one request of the inference protocol, in and out each.
pub const PROTOCOL_TENSORS: usize = COLUMNS + 64;
/// Axes of such a tensor.
pub const PROTOCOL_AXES: usize = 8;
/// Bytes of the parameters of such a request.
pub const PROTOCOL_PARAMETER_BYTES: usize = 64 << 10;
/// Questions that wait for the inference threads before more are refused.
pub const INFERENCE_QUEUE: usize = 256;
/// Sizes of batches that are told apart in the statistics of one model.
pub const BATCH_SIZES: usize = 256;
/// Seconds that a question waits for a thread to be free, unless the caller says otherwise.
pub const INFERENCE_WAIT_SECONDS: u64 = 30;
/// Models that are loaded at once; others wait for these.
pub const LOADS: usize = 2;
/// Bytes that a loaded model is counted for beside its numbers.
pub const MODEL_OVERHEAD_BYTES: u64 = 16 << 10;
/// Images in one PNG grid.
pub const GRID_IMAGES: usize = 4_096;

/// Uploads in several requests that wait for more bytes, or for being made a dataset of.
pub const UPLOADS: u64 = 64;
/// Bytes that all of them together may announce.
pub const UPLOADS_BYTES: u64 = 256 << 30;
/// Bytes after which a part that is still arriving is synced and counted, so that little of it is sent twice after a break.
pub const UPLOAD_SYNC_BYTES: u64 = 64 << 20;
/// Hours that an upload waits for its next bytes before it is removed.
pub const UPLOAD_HOURS: i64 = 24;
/// Bytes of what an upload says of its file.
pub const UPLOAD_METADATA_BYTES: usize = 4 << 10;

/// Items on one page of a list, and the most a caller may ask for.
pub const PAGE_ITEMS: u32 = 20;
/// The most items on one page.
pub const PAGE_ITEMS_MOST: u32 = 100;
/// Rows of a dataset in one answer, unless asked otherwise.
pub const PAGE_ROWS: u64 = 100;
/// The most rows of a dataset in one answer.
pub const PAGE_ROWS_MOST: u64 = 10_000;
/// Downloads of rows as files that are written at once.
pub const EXPORTS: usize = 16;
/// Models that are turned into files for other programs at once; each takes a process, and memory several times its size.
pub const MODEL_EXPORTS: usize = 2;
/// The most points of one metric series in one answer.
pub const METRIC_POINTS_MOST: u32 = 10_000;
/// Seconds that `?wait=` may hold a request open.
pub const WAIT_SECONDS_MOST: u64 = 60;
/// Priorities of jobs.
pub const PRIORITY: std::ops::RangeInclusive<i32> = -100..=100;
/// MiB of memory that a trainer may be limited to. With less not even libtorch begins.
pub const TRAINER_MIB: std::ops::RangeInclusive<u64> = 128..=1 << 24;
/// Seconds of training that a job may be limited to.
pub const RUNTIME_SECONDS: std::ops::RangeInclusive<u32> = 1..=31_536_000;
/// Checkpoints of each kind that may be kept of a job.
pub const CHECKPOINTS: u32 = 10;
/// Lines that are kept of the log of a job; the oldest go first.
pub const LOG_LINES: u32 = 2_000;
/// Bytes of one line of it; a longer one is cut in pieces.
pub const LOG_LINE_BYTES: usize = 1_000;
/// Phases that are kept of the history of a job.
pub const PHASES: i64 = 200;
/// Jobs that are looked at at once before they are queued.
pub const PROBES: usize = 2;
/// Jobs that may wait in the queue.
pub const QUEUED_JOBS: u64 = 10_000;
/// Trials of one sweep.
pub const SWEEP_TRIALS: u32 = 1_000;
/// Fields of the spec that one sweep varies.
pub const SWEEP_FIELDS: usize = 32;
/// Characters of a JSON pointer to such a field.
pub const SWEEP_POINTER_CHARS: usize = 300;
/// Datasets that its trials may be on.
pub const SWEEP_DATASETS: usize = 16;
/// Bytes of the specs of all trials of one sweep together.
pub const SWEEP_BYTES: usize = 64 << 20;
/// Event streams open at once.
pub const EVENT_STREAMS: usize = 1_000;
/// Bytes of one message from a trainer process.
pub const TRAINER_MESSAGE_BYTES: usize = 8 << 20;
/// Models whose rows of the database are kept in memory.
pub const RECENT_MODELS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(256).expect("it is not zero");
/// Bytes of prepared rows that a job keeps on a GPU; those of a larger dataset go there batch by batch. Several jobs share a GPU.
pub const RESIDENT_BYTES: u64 = 4 << 30;
