//! Archives (ZIP) of pictures: PNG and JPEG, one row each, `[channels, height, width]`, values from 0 to 255.
//!
//! The folder that a picture lies in is its label, when there is more than one such folder. Pictures come in the order of
//! their names, numbers in them by value. The names are labels and an order, and nothing is ever written by them. Every
//! header is read before any picture is decoded, so that a picture that is too large or of another size than the first is
//! refused for the price of its header. An archive without pictures but with one text is read as that text.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use zip::read::{Config, OwnedZipFileEntry};
use zip::result::ZipError;
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipReadOptions};

use super::csv;
use super::dataset::Role;
use super::rows::too_large;
use super::sink::{Field, Holds, Sink, numbered};
use super::text::refuse;
use super::{DataError, batches};
use crate::domain::limits::{
    COLUMN_NAME_CHARS, COLUMNS, IMAGE_DECODED_BYTES, IMAGE_FILE_BYTES, IMAGE_RESIZED_SIDE, IMAGE_SIDE, LEVELS,
    ZIP_ENTRIES, ZIP_NAME_BYTES,
};
use crate::domain::refusal::{Code, Faults};
use crate::domain::shape::ImageShape;

/// The column of the folders.
const LABEL: &str = "label";
/// How an entry begins, and how an archive without any does.
const MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
const TEXTS: [&str; 4] = ["csv", "tsv", "tab", "txt"];

pub(super) fn begins(start: &[u8]) -> bool {
    MAGICS.iter().any(|magic| start.starts_with(magic))
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let file = File::open(source)?;
    batches::guarded("ZIP", sink, |sink| {
        let (pictures, texts) = entries(&file)?;
        if !pictures.is_empty() {
            return Album::open(file, pictures, sink)?.read(sink);
        }
        match &texts[..] {
            [text] => read_text(&file, text, sink),
            [] => Err(refuse("/", "no_images", "the archive holds neither PNG or JPEG images nor a CSV file")),
            _ => {
                let names: Vec<String> = texts.iter().take(12).map(|text| text.name.clone()).collect();
                let detail = format!(
                    "the archive holds no images and {} texts, of which one would be read: {}",
                    texts.len(),
                    names.join(", ")
                );
                Err(refuse("/", "too_many", detail))
            }
        }
    })
}

/// A file in an archive.
struct Entry {
    name: String,
    place: OwnedZipFileEntry,
}

impl Entry {
    /// The folder that it lies in, `.` where there is none.
    fn folder(&self) -> &str {
        let folder = self.name.rsplit('/').nth(1).unwrap_or("").trim();
        if folder.is_empty() { "." } else { folder }
    }

    fn extension(&self) -> String {
        self.name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase()
    }

    fn format(&self) -> Option<ImageFormat> {
        match &self.extension()[..] {
            "png" => Some(ImageFormat::Png),
            "jpg" | "jpeg" => Some(ImageFormat::Jpeg),
            _ => None,
        }
    }

    /// Whether it is something that a system left there.
    fn is_hidden(&self) -> bool {
        self.name.split('/').any(|part| part == "__MACOSX" || (part.starts_with('.') && part != "." && part != ".."))
    }
}

/// The pictures and the texts of an archive. What is neither is passed over.
fn entries(file: &File) -> Result<(Vec<Entry>, Vec<Entry>), DataError> {
    let mut archive = ZipIterable::try_new(BufReader::new(file), Config::default()).map_err(wrong)?;
    if archive.len() > ZIP_ENTRIES {
        let detail = format!("the archive has {} entries; allowed are {ZIP_ENTRIES}", archive.len());
        return Err(refuse("/", "too_many", detail));
    }
    let (mut pictures, mut texts, mut name_bytes) = (Vec::new(), Vec::new(), 0);
    for place in archive.files().map_err(wrong)? {
        let place = place.map_err(wrong)?;
        name_bytes += place.name_raw().len() + place.comment_raw().len();
        if name_bytes > ZIP_NAME_BYTES {
            let detail = format!("the names of the archive take more than {ZIP_NAME_BYTES} bytes");
            return Err(refuse("/", "too_large_at_once", detail));
        }
        if !place.is_file() {
            continue;
        }
        // A name is a label and an order; where it would lead does not matter.
        let entry = Entry { name: String::from_utf8_lossy(place.name_raw()).replace('\\', "/"), place: place.into() };
        if entry.is_hidden() {
            continue;
        }
        if entry.format().is_some() {
            pictures.push(entry);
        } else if TEXTS.contains(&&entry.extension()[..]) {
            texts.push(entry);
        }
    }
    pictures.sort_by(|a, b| natural(&a.name, &b.name));
    Ok((pictures, texts))
}

fn wrong(error: ZipError) -> DataError {
    match error {
        ZipError::Io(error) if error.raw_os_error().is_some() => DataError::Io(error),
        error => batches::broken("ZIP", error),
    }
}

/// Names by their characters, digits by the number they make.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (first, second) = (digits(left), digits(right));
        let order = if first > 0 && second > 0 {
            let (number, other) = (left[..first].trim_start_matches('0'), right[..second].trim_start_matches('0'));
            (left, right) = (&left[first..], &right[second..]);
            number.len().cmp(&other.len()).then_with(|| number.cmp(other))
        } else {
            let (mut characters, mut others) = (left.chars(), right.chars());
            let pair = (characters.next(), others.next());
            (left, right) = (characters.as_str(), others.as_str());
            if pair == (None, None) {
                return a.cmp(b);
            }
            pair.0.cmp(&pair.1)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Opens an entry whose size and compression are such as are read.
fn open<'a>(file: &'a mut BufReader<File>, entry: &'a Entry) -> Result<Box<dyn Read + 'a>, DataError> {
    let place = &entry.place;
    if place.encrypted() {
        return Err(refuse("/", "encrypted", format!("`{}` in the archive is encrypted", shown(&entry.name))));
    }
    if !matches!(place.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        let detail = format!(
            "`{}` in the archive is compressed by {:?}; allowed are stored and deflated",
            shown(&entry.name),
            place.compression()
        );
        return Err(refuse("/", "not_supported", detail));
    }
    let opened = place.as_ref().with_reader(file, ZipReadOptions::new()).map_err(wrong)?;
    Ok(Box::new(opened))
}

fn shown(name: &str) -> String {
    name.chars().take(120).collect()
}

/// Reads the one text of an archive, through a file that is removed again.
fn read_text(file: &File, entry: &Entry, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let most = sink.most_bytes.saturating_mul(4);
    let mut file = BufReader::new(file.try_clone()?);
    let mut inside = open(&mut file, entry)?.take(most.saturating_add(1));
    let mut beside = tempfile::NamedTempFile::new_in(sink.directory())?;
    match std::io::copy(&mut inside, &mut beside) {
        Ok(bytes) if bytes > most => return Err(too_large(sink.most_bytes).into()),
        Ok(_) => {}
        Err(error) if error.raw_os_error().is_some() => return Err(error.into()),
        Err(error) => return Err(damaged(entry, error)),
    }
    csv::read(beside.path(), sink)
}

fn damaged(entry: &Entry, why: impl std::fmt::Display) -> DataError {
    refuse("/", "broken_file", format!("`{}` in the archive is damaged: {why}", shown(&entry.name)))
}

/// What the header of a picture says.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    width: u32,
    height: u32,
    is_grey: bool,
}

/// Pictures that all have, or are brought to, one shape.
struct Album {
    file: BufReader<File>,
    pictures: Vec<Entry>,
    shape: ImageShape,
    /// The names of the folders, when there is more than one.
    folders: Vec<String>,
}

impl Album {
    /// Looks at the header of every picture.
    fn open(file: File, pictures: Vec<Entry>, sink: &Sink<'_>) -> Result<Self, DataError> {
        let mut file = BufReader::new(file);
        let resize = sink.spec.resize;
        let (mut faults, mut first, mut all_grey) = (Faults::new(), None, true);
        for (row, entry) in pictures.iter().enumerate() {
            let look = match look(&mut file, entry) {
                Ok(look) => look,
                Err(DataError::Refused(refusal)) => {
                    faults.push(format!("/rows/{row}"), &refusal.errors[0].code, refusal.detail);
                    if faults.is_full() {
                        break;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            all_grey &= look.is_grey;
            let (model, expected): &(String, Look) = first.get_or_insert_with(|| (shown(&entry.name), look));
            if resize.is_none() && (look.width, look.height) != (expected.width, expected.height) {
                let detail = format!(
                    "`{}` is {} by {} pixels, `{model}` {} by {}; bring them to one size, or give `resize`",
                    shown(&entry.name),
                    look.width,
                    look.height,
                    expected.width,
                    expected.height
                );
                faults.push(format!("/rows/{row}"), "another_size", detail);
                if faults.is_full() {
                    break;
                }
            }
        }
        faults.into_result(Code::InvalidDataset)?;
        let (_, look) = first.expect("an album has a picture; this is a bug");
        let found = ImageShape { channels: if all_grey { 1 } else { 3 }, height: look.height, width: look.width };
        // Three channels that were asked for are given to grey pictures too; one is what a size without channels says.
        let shape = resize.map_or(found, |size| ImageShape { channels: found.channels.max(size.channels), ..size });
        if resize.is_some() && shape.width.max(shape.height) > IMAGE_RESIZED_SIDE {
            let detail = format!("is {shape}; allowed are up to {IMAGE_RESIZED_SIDE} pixels a side");
            return Err(refuse("?resize", "out_of_range", detail));
        }
        if shape.pixels().is_none_or(|pixels| pixels > COLUMNS) {
            let detail = format!("the images are {shape}, which makes more than {COLUMNS} columns; give `resize`");
            return Err(refuse("/columns", "too_many", detail));
        }
        let folders = folders(&pictures)?;
        Ok(Self { file, pictures, shape, folders })
    }

    fn read(mut self, sink: &mut Sink<'_>) -> Result<(), DataError> {
        let width = self.shape.pixels().expect("the shape was checked above; this is a bug");
        let mut fields = numbered(width);
        if !self.folders.is_empty() {
            let holds = Holds::Levels { names: self.folders.clone(), ordered: false };
            fields.push(Field { role: Some(Role::Label), ..Field::new(LABEL, holds) });
        }
        if sink.image.is_none() && sink.spec.roles.is_empty() {
            sink.image = Some(self.shape);
        }
        sink.begin(fields)?;
        for entry in &self.pictures {
            match pixels(&mut self.file, entry, self.shape) {
                Ok(pixels) => {
                    pixels.iter().for_each(|value| sink.number(f64::from(*value)));
                    if !self.folders.is_empty() {
                        sink.level(entry.folder());
                    }
                }
                Err(DataError::Refused(refusal)) => sink.fault(&refusal.errors[0].code, &refusal.detail),
                Err(error) => return Err(error),
            }
            sink.end_row()?;
            if sink.is_full() {
                break;
            }
        }
        Ok(())
    }
}

/// The folders of the pictures in their order; none when there is only one.
fn folders(pictures: &[Entry]) -> Result<Vec<String>, DataError> {
    let mut names: Vec<&str> = pictures.iter().map(Entry::folder).collect();
    names.sort_by(|a, b| natural(a, b));
    names.dedup();
    if names.len() < 2 {
        return Ok(Vec::new());
    }
    if names.len() > LEVELS as usize {
        let detail = format!("the images lie in {} folders, which are labels; allowed are {LEVELS}", names.len());
        return Err(refuse("/columns", "too_many_levels", detail));
    }
    if let Some(name) = names.iter().find(|name| name.chars().count() > COLUMN_NAME_CHARS) {
        let detail = format!("the folder `{}` has a name of more than {COLUMN_NAME_CHARS} characters", shown(name));
        return Err(refuse("/columns", "too_long", detail));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(IMAGE_SIDE);
    limits.max_image_height = Some(IMAGE_SIDE);
    limits.max_alloc = Some(IMAGE_DECODED_BYTES);
    limits
}

/// The bytes of a picture, as they lie in a file of their own.
fn bytes(file: &mut BufReader<File>, entry: &Entry) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    let mut inside = open(file, entry)?.take(IMAGE_FILE_BYTES + 1);
    inside.read_to_end(&mut bytes).map_err(|error| match error.raw_os_error() {
        Some(_) => error.into(),
        None => damaged(entry, error),
    })?;
    if bytes.len() as u64 > IMAGE_FILE_BYTES {
        let detail = format!("`{}` has more than {IMAGE_FILE_BYTES} bytes", shown(&entry.name));
        return Err(refuse("/", "too_large_image", detail));
    }
    Ok(bytes)
}

fn decoder<'a>(bytes: &'a [u8], entry: &Entry) -> Result<impl ImageDecoder + 'a, DataError> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Err(damaged(entry, "it is neither PNG nor JPEG"));
    }
    reader.limits(limits());
    let decoder = reader.into_decoder().map_err(|error| too_large_or_damaged(entry, error))?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > IMAGE_DECODED_BYTES || width.max(height) > IMAGE_SIDE {
        let detail = format!(
            "`{}` is {width} by {height} pixels; allowed are {IMAGE_SIDE} a side and {IMAGE_DECODED_BYTES} bytes when decoded",
            shown(&entry.name)
        );
        return Err(refuse("/", "too_large_image", detail));
    }
    Ok(decoder)
}

fn too_large_or_damaged(entry: &Entry, error: image::ImageError) -> DataError {
    match error {
        image::ImageError::Limits(_) => {
            let detail = format!(
                "`{}` is too large: allowed are {IMAGE_SIDE} pixels a side and {IMAGE_DECODED_BYTES} bytes when decoded",
                shown(&entry.name)
            );
            refuse("/", "too_large_image", detail)
        }
        error => damaged(entry, error),
    }
}

fn look(file: &mut BufReader<File>, entry: &Entry) -> Result<Look, DataError> {
    let bytes = bytes(file, entry)?;
    let mut decoder = decoder(&bytes, entry)?;
    let (mut width, mut height) = decoder.dimensions();
    if lies_on_its_side(decoder.orientation().unwrap_or(Orientation::NoTransforms)) {
        (width, height) = (height, width);
    }
    let is_grey = matches!(decoder.color_type(), ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16);
    Ok(Look { width, height, is_grey })
}

fn lies_on_its_side(orientation: Orientation) -> bool {
    use Orientation as O;
    matches!(orientation, O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH)
}

/// The pixels of a picture in a shape: channel after channel.
fn pixels(file: &mut BufReader<File>, entry: &Entry, shape: ImageShape) -> Result<Vec<u8>, DataError> {
    let bytes = bytes(file, entry)?;
    let mut decoder = decoder(&bytes, entry)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| too_large_or_damaged(entry, error))?;
    picture.apply_orientation(orientation);
    if picture.color().has_alpha() {
        picture = on_white(&picture);
    }
    if (picture.width(), picture.height()) != (shape.width, shape.height) {
        picture = picture.resize_exact(shape.width, shape.height, image::imageops::FilterType::Triangle);
    }
    if shape.channels == 1 {
        return Ok(picture.into_luma8().into_raw());
    }
    let interleaved = picture.into_rgb8().into_raw();
    Ok((0..3).flat_map(|channel| interleaved.iter().skip(channel).step_by(3).copied()).collect())
}

/// What shows through is white.
fn on_white(picture: &DynamicImage) -> DynamicImage {
    let is_grey = matches!(picture.color(), ColorType::La8 | ColorType::La16);
    let over = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    if is_grey {
        let from = picture.to_luma_alpha8();
        let (width, height) = from.dimensions();
        return image::GrayImage::from_fn(width, height, |x, y| {
            let [value, alpha] = from.get_pixel(x, y).0;
            image::Luma([over(value, alpha)])
        })
        .into();
    }
    let from = picture.to_rgba8();
    let (width, height) = from.dimensions();
    image::RgbImage::from_fn(width, height, |x, y| {
        let [red, green, blue, alpha] = from.get_pixel(x, y).0;
        image::Rgb([over(red, alpha), over(green, alpha), over(blue, alpha)])
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batches::trial::{MOST_BYTES, peak_bytes, read, refused, survives};
    use crate::data::dataset::Schema;
    use crate::data::{Format, IngestSpec};
    use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
    use proptest::prelude::*;
    use std::io::Write;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn archive<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            writer.start_file(name, SimpleFileOptions::default()).unwrap();
            writer.write_all(&bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// Three by two grey pixels that count up from a value.
    fn grey(first: u8) -> Vec<u8> {
        encoded(GrayImage::from_fn(3, 2, |x, y| Luma([first + (3 * y + x) as u8])), ImageFormat::Png)
    }

    fn found(bytes: &[u8]) -> (Schema, Vec<Vec<f32>>) {
        let (ingested, rows) = read(bytes, &IngestSpec::default()).unwrap();
        assert_eq!(ingested.format, Format::Zip);
        (ingested.schema, rows)
    }

    /// The header of a picture of that size and nothing else.
    fn header_of(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        let size = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
        for (kind, content) in [(b"IHDR", size), (b"IDAT", vec![0x78, 0x9c]), (b"IEND", Vec::new())] {
            let chunk = [&kind[..], &content].concat();
            let mut sum = flate2::Crc::new();
            sum.update(&chunk);
            bytes.extend((content.len() as u32).to_be_bytes());
            bytes.extend(&chunk);
            bytes.extend(sum.sum().to_be_bytes());
        }
        bytes
    }

    #[test]
    fn pictures_come_in_the_order_of_their_names_and_make_an_image() {
        let (schema, rows) = found(&archive([("img10.png", grey(100)), ("img9.png", grey(9)), ("img1.png", grey(1))]));
        assert_eq!(schema.image, Some(ImageShape { channels: 1, height: 2, width: 3 }));
        assert_eq!(rows[0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), [1.0, 9.0, 100.0]);
        assert_eq!(schema.columns[5].name, "c5");
    }

    #[test]
    fn folders_are_labels_when_there_is_more_than_one() {
        let (schema, rows) = found(&archive([
            ("all/none/1.png", grey(1)),
            ("all/cat/1.png", grey(2)),
            ("test/cat/2.png", grey(3)),
            ("__MACOSX/all/cat/._1.png", vec![0, 5, 22]),
            ("all/.DS_Store.png", vec![1]),
            ("README.md", b"hello".to_vec()),
        ]));
        let label = schema.columns.last().unwrap();
        assert_eq!(
            (label.name.as_str(), label.role, label.levels.join(",")),
            ("label", Role::Label, "cat,none".into())
        );
        assert_eq!(rows.iter().map(|row| (row[0], row[6])).collect::<Vec<_>>(), [(2.0, 0.0), (1.0, 1.0), (3.0, 0.0)]);
        assert!(schema.image.is_some());
        let (schema, _) = found(&archive([("cat/1.png", grey(1)), ("cat/2.png", grey(2))]));
        assert_eq!(schema.columns.len(), 6);
    }

    #[test]
    fn colours_come_channel_after_channel_and_what_shows_through_is_white() {
        let colour = encoded(RgbImage::from_fn(2, 1, |x, _| Rgb([10 + x as u8, 20, 30])), ImageFormat::Png);
        let through =
            encoded(RgbaImage::from_fn(2, 1, |x, _| Rgba([0, 0, 0, if x == 0 { 0 } else { 255 }])), ImageFormat::Png);
        let grey = encoded(GrayImage::from_pixel(2, 1, Luma([7])), ImageFormat::Png);
        let (schema, rows) = found(&archive([("1.png", colour), ("2.png", through), ("3.png", grey)]));
        assert_eq!(schema.image, Some(ImageShape { channels: 3, height: 1, width: 2 }));
        assert_eq!(rows[0], [10.0, 11.0, 20.0, 20.0, 30.0, 30.0]);
        assert_eq!(rows[1], [255.0, 0.0, 255.0, 0.0, 255.0, 0.0]);
        assert_eq!(rows[2], [7.0; 6]);
    }

    #[test]
    fn jpeg_is_read_as_nearly_as_it_was_written() {
        let bytes = encoded(GrayImage::from_fn(16, 16, |x, y| Luma([(x * 8 + y * 4) as u8])), ImageFormat::Jpeg);
        let (_, rows) = found(&archive([("a.JPG", bytes)]));
        for (pixel, value) in rows[0].iter().enumerate() {
            let expected = (pixel % 16 * 8 + pixel / 16 * 4) as f32;
            assert!((value - expected).abs() < 12.0, "{pixel}: {value} for {expected}");
        }
    }

    #[test]
    fn another_size_is_refused_with_both_names_or_brought_to_one() {
        let large = encoded(GrayImage::from_pixel(8, 8, Luma([50])), ImageFormat::Png);
        let bytes = archive([("a.png", large), ("b.png", grey(1))]);
        let Err(DataError::Refused(refusal)) = read(&bytes, &IngestSpec::default()) else { panic!("sizes differ") };
        assert_eq!((refusal.errors[0].pointer.as_str(), refusal.errors[0].code.as_str()), ("/rows/1", "another_size"));
        assert!(refusal.detail.contains("`a.png` 8 by 8") && refusal.detail.contains("`b.png` is 3 by 2"), "{refusal}");
        let spec = IngestSpec { resize: Some("4x4".parse().unwrap()), ..IngestSpec::default() };
        let (ingested, rows) = read(&bytes, &spec).unwrap();
        assert_eq!(ingested.schema.image, Some(ImageShape { channels: 1, height: 4, width: 4 }));
        assert_eq!(rows[0], [50.0; 16]);
    }

    #[test]
    fn a_picture_that_claims_to_be_huge_is_refused_by_its_header() {
        let before = peak_bytes();
        let bytes = archive([("a.png", header_of(60_000, 60_000))]);
        assert_eq!(refused(&bytes, &IngestSpec::default()), ("/rows/0".into(), "too_large_image".into()));
        let spec = IngestSpec { resize: Some("4x4".parse().unwrap()), ..IngestSpec::default() };
        assert_eq!(refused(&bytes, &spec), ("/rows/0".into(), "too_large_image".into()));
        let wide = archive([("a.png", header_of(4_000, 4_000))]);
        assert_eq!(refused(&wide, &IngestSpec::default()), ("/columns".into(), "too_many".into()));
        assert!(peak_bytes() - before < 16 << 20, "{} bytes more", peak_bytes() - before);
    }

    #[test]
    fn names_that_lead_elsewhere_are_only_names() {
        let (schema, rows) = found(&archive([
            ("../../etc/1.png", grey(1)),
            ("/tmp/absolute/2.png", grey(2)),
            ("c:\\windows\\3.png", grey(3)),
        ]));
        assert_eq!(rows.len(), 3);
        assert_eq!(schema.columns.last().unwrap().levels, ["absolute", "etc", "windows"]);
        assert!(!Path::new("/tmp/absolute/2.png").exists());
    }

    #[test]
    fn an_archive_of_one_text_is_read_as_that_text() {
        let (schema, rows) = found(&archive([("data/table.csv", b"a,b\n1,2\n3,4.5\n".to_vec())]));
        assert_eq!((schema.columns[1].name.as_str(), rows), ("b", vec![vec![1.0, 2.0], vec![3.0, 4.5]]));
        let two = archive([("a.csv", b"a\n1\n".to_vec()), ("b.csv", b"a\n1\n".to_vec())]);
        assert_eq!(refused(&two, &IngestSpec::default()).1, "too_many");
        assert_eq!(refused(&archive([("a.md", vec![1])]), &IngestSpec::default()).1, "no_images");
        let bomb = archive([("a.csv", b"1,2\n".repeat(MOST_BYTES as usize + 10))]);
        assert_eq!(refused(&bomb, &IngestSpec::default()).1, "too_large");
    }

    #[test]
    fn each_damaged_picture_is_named() {
        let whole = grey(1);
        let bytes = archive([("a.png", grey(1)), ("b.png", whole[..whole.len() / 2].to_vec()), ("c.png", vec![1, 2])]);
        let Err(DataError::Refused(refusal)) = read(&bytes, &IngestSpec::default()) else { panic!("it is damaged") };
        assert!(refusal.errors.iter().any(|fault| fault.pointer == "/rows/2" && fault.detail.contains("`c.png`")));
        let cut = archive([("a.png", grey(1)), ("b.png", whole[..whole.len() - 20].to_vec())]);
        assert_eq!(refused(&cut, &IngestSpec::default()), ("/rows/1".into(), "broken_file".into()));
        let zip = archive([("a.png", grey(1))]);
        assert_eq!(refused(&zip[..zip.len() - 10], &IngestSpec::default()).1, "broken_file");
    }

    #[test]
    fn numbers_in_names_are_ordered_by_value() {
        let mut names = ["b", "a10", "a9", "a", "a09", "a1b2", "a1b10", "é"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "a1b2", "a1b10", "a09", "a9", "a10", "b", "é"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_written_is_read_back(values in proptest::collection::vec(any::<[u8; 4]>(), 1..20), stored: bool) {
            let pictures = values.iter().enumerate().map(|(number, value)| {
                let picture = GrayImage::from_raw(2, 2, value.to_vec()).unwrap();
                (format!("{number}.png"), encoded(picture, ImageFormat::Png))
            });
            let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
            let method = if stored { CompressionMethod::Stored } else { CompressionMethod::Deflated };
            for (name, bytes) in pictures {
                writer.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
                writer.write_all(&bytes).unwrap();
            }
            let (_, rows) = found(&writer.finish().unwrap().into_inner());
            let expected: Vec<Vec<f32>> = values.iter().map(|value| value.map(f32::from).to_vec()).collect();
            prop_assert_eq!(rows, expected);
        }

        #[test]
        fn any_bytes_behind_the_magic_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            survives(&[MAGICS[0], &bytes[..]].concat());
            survives(&[MAGICS[1], &bytes[..]].concat());
        }

        #[test]
        fn damage_and_cuts_are_survived(at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
            let jpeg = encoded(GrayImage::from_pixel(3, 2, Luma([9])), ImageFormat::Jpeg);
            let mut bytes = archive([("a/1.png", grey(1)), ("b/2.jpg", jpeg)]);
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at.max(4));
            } else {
                bytes[at] = byte;
            }
            survives(&bytes);
        }

        #[test]
        fn damaged_pictures_are_survived(at in any::<prop::sample::Index>(), byte: u8, kind: bool) {
            let format = if kind { ImageFormat::Png } else { ImageFormat::Jpeg };
            let mut picture = encoded(RgbImage::from_pixel(9, 7, Rgb([9, 99, 199])), format);
            let at = at.index(picture.len());
            picture[at] = byte;
            survives(&archive([("a.png", picture)]));
        }
    }
}
