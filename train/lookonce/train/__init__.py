"""Stage two: train a student from the cache; the teacher is never run, ray and open_clip are never imported."""
