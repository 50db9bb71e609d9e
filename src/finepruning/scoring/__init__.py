"""How good a network is on labelled data: answers counted with intervals, what class folders mean,
and word errors of transcripts. (Not called ``evaluate``, which is a public function.)"""
