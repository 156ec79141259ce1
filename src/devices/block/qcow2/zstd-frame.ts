// How long a Zstandard frame is (RFC 8878, 3.1.1). A compressed cluster is followed by something else up to the end of its
// sector, and Node's decompressor takes what follows a frame for another one.

const MAGIC = 0xfd2f_b528;
const BLOCK_HEADER_SIZE = 3;
const RLE_BLOCK = 1;
/** Bytes of Dictionary_ID and Frame_Content_Size by their flags. */
const DICTIONARY_ID_SIZES = [0, 1, 2, 4];
const CONTENT_SIZES = [0, 2, 4, 8];

/** The bytes of the frame that `data` starts with; `undefined` when that is not a whole frame. */
export function zstdFrameLength(data: Uint8Array): number | undefined {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.length < 6 || view.getUint32(0, true) !== MAGIC) return undefined;
  const descriptor = data[4];
  const singleSegment = (descriptor & 0x20) !== 0;
  const hasChecksum = (descriptor & 0x04) !== 0;
  let contentSize = CONTENT_SIZES[descriptor >>> 6];
  if (singleSegment && contentSize === 0) contentSize = 1;
  let position = 5 + (singleSegment ? 0 : 1) + DICTIONARY_ID_SIZES[descriptor & 3] + contentSize;
  for (let last = false; !last;) {
    if (position + BLOCK_HEADER_SIZE > data.length) return undefined;
    const header = data[position] | (data[position + 1] << 8) | (data[position + 2] << 16);
    last = (header & 1) !== 0;
    const isRle = ((header >>> 1) & 3) === RLE_BLOCK;
    position += BLOCK_HEADER_SIZE + (isRle ? 1 : header >>> 3);
  }
  if (hasChecksum) position += 4;
  return position <= data.length ? position : undefined;
}
