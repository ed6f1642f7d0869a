"""Has things done beside a run: files are written while the server's thread waits for no disk.

::

    server's thread                                   writer: a process of low priority, or a thread
    begin, with the plan ─────────────────────────▸   opens the file
    copies up to 256 KiB of the model into a slot
    part 3 of array 0, at byte 262,144 ───────────▸   checksum, write
                       ◂───────────────────────────   slot 3 is free
    finish ───────────────────────────────────────▸   header, fsync, rename
                       ◂───────────────────────────   done

- disk.py: the disk that does all of this.
- writing.py: the server's side of a checkpoint that is written.
- writer.py: the other side, a program of its own or a thread.
- in_time.py: files that nobody waits for longer than a second, whatever their disk does.
- cadence.py: how often a thing is done beside the run, so that it costs it little.

Imports: checkpoint_file.py and disk.py above, and the processes.
"""
