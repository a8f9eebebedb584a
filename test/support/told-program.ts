// A Python program that does what it is told, one line of its standard input after the other, and answers each with a line: another
// process than the test, which can map files and can be kept waiting.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

export class ToldProgram {
  readonly child: ChildProcess;
  private pending = '';

  constructor(script: string) {
    this.child = spawn('python3', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
      this.pending += chunk;
    });
  }

  /** @returns its answer */
  async do(command: string): Promise<string> {
    this.child.stdin!.write(`${command}\n`);
    while (!this.pending.includes('\n')) await once(this.child.stdout!, 'data');
    const [answer = '', ...rest] = this.pending.split('\n');
    this.pending = rest.join('\n');
    return answer;
  }

  async end(): Promise<void> {
    if (this.child.signalCode !== null || this.child.exitCode !== null) return;
    this.child.kill('SIGKILL');
    await once(this.child, 'exit');
  }
}
