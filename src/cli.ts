#!/usr/bin/env node
// Entry of the program, and the only place that ends the process. It loads nothing before SIGUSR1 has a handler:
// without one, that signal makes Node open its debugger port, which a daemon of root must never do.

process.on('SIGUSR1', () => {});

try {
  const { main } = await import('./cli/main.ts');
  process.exit(await main(process.argv.slice(2), process.argv[1] ?? 'imgfuse'));
} catch (error) {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code !== 'EMFILE' && code !== 'ENFILE') throw error;
  process.stderr.write(
    `imgfuse: too many files are open to load the program; raise the limit (ulimit -n): ${message}\n`,
  );
  process.exit(1);
}
