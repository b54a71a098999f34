module weft/bench/gosync

go 1.19
