// Thrown by the start of a mount that was told to end before it answered. It has a file of its own because the process of a
// mount loads the supervisor later, and ends differently after this than after any other error.

export class StartBrokenOff extends Error {
  /** of this process */
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}
