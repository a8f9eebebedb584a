// The figures of reading over HTTP. Tests pass smaller ones; native-notes/http.md says why they are what they are.

export interface HttpLimits {
  /** unit of the cache and of requests */
  readonly blockBytes: number;
  /** upper bound of the cached blocks of one file */
  readonly cacheBytes: number;
  /** asked for in one request at most */
  readonly requestBytes: number;
  /** read ahead of a sequential reader at most */
  readonly readAheadBytes: number;
  /** requests of one file under way at the same time */
  readonly parallelRequests: number;
  readonly connectMs: number;
  /** one block, or the head of an answer, arrives within this time or the request is given up */
  readonly stallMs: number;
  /** requests for a block in a row that may fail before its readers are told */
  readonly attempts: number;
  /** the same when the file is opened */
  readonly openAttempts: number;
  /** pause before the second attempt; it doubles from one to the next */
  readonly backoffMs: number;
  /** no attempt begins later than this after the last block that arrived */
  readonly giveUpMs: number;
  readonly redirects: number;
  /** a request of the kernel waits for no block later than this after it began; then it gets an error, and the block still comes */
  readonly answerMs: number;
}

export const HTTP_LIMITS: HttpLimits = {
  blockBytes: 64 * 1024,
  cacheBytes: 32 * 1024 * 1024,
  requestBytes: 1024 * 1024,
  readAheadBytes: 4 * 1024 * 1024,
  parallelRequests: 4,
  connectMs: 10_000,
  stallMs: 20_000,
  attempts: 5,
  openAttempts: 3,
  backoffMs: 500,
  giveUpMs: 60_000,
  redirects: 5,
  answerMs: Number.POSITIVE_INFINITY,
};
