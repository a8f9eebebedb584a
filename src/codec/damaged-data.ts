// The one error of the decoders; the format makes a sentence with file and offset of it.

/** What is wrong with compressed data, in words that follow "the compressed cluster ... ". */
export class DamagedData extends Error {}
